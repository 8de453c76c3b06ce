"""The binding floor: llama.cpp as Python objects, for the engine and for `models tune` alike."""
