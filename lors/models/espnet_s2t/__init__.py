"""ESPnet's S2T models (OWSM and its kin)."""
