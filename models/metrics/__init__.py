"""How far a picture has drifted from where it began."""
