"""The three phases of a round: warm start, reinforcement, hindsight."""
