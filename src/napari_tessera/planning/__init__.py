"""From what the user wants to what will happen: windows, passes, memory, advice. Pure, in milliseconds."""
