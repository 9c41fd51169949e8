"""How the checked code is kept out of bnlint's own process, and from the machine."""
