"""The evidence: DA-GRPO and every baseline on a sequence of task families, with switches.

    protocol ─▶ plan (runs of one method, seed and budget) ─▶ run (units of one phase each)
             ─▶ records ─▶ metrics ─▶ summary ─▶ report and plots

A unit that is done is a JSON file; an interrupted benchmark goes on with the units that are not.
"""
