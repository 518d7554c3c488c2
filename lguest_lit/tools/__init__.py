"How the site is made: its reference, and what no renderer knows. Not in the wheel."
