"""Model families: how each is trained, prompted and decoded."""
