"Machine code, the sources it was built from, and its listings: the Switcher and the Guests. Knows nobody."
