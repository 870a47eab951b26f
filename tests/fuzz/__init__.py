"""A fuzzer: breaks valid files and options in many ways, and sees that mygpt refuses each in one line.

`python -m tests.fuzz --seed N --mutations M`. A case is made from its seed and number alone.
"""
