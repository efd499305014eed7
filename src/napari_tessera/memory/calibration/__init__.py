"""What runs really took of memory and time, and what follows from it for the next."""
