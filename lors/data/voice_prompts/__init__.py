"""Prompts of a telephone system, recorded by one professional speaker a language.

:mod:`.packages` says which packages hold the prompts, :mod:`.download` gets them, :mod:`.archives`
opens them, :mod:`.transcripts` reads and cleans the transcripts, :mod:`.groups` splits, and
:mod:`.corpus` selects the prompts and writes the data directories. :mod:`.read_russian` prepares
a second Russian corpus, sentences of a novel read aloud by another speaker.
"""
