"""What passes between the rooms, as frozen data: no I/O, no llama.cpp."""
