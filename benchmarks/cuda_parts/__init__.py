"""The parts of `cuda.py`: `command` runs them, `record` is what they write to, `report` what becomes of it.

A part is a module with a function ``run(record)``; `command.PARTS` lists them.
"""
