"""A synthetic corpus in the form of Common Voice 4 and CoVoST 2, spoken by espeak-ng.

:mod:`.grammar` draws sentences with their English translations, :mod:`.voices` reads the acoustic
conditions and draws speakers, :mod:`.plan` decides who says what, :mod:`.audio` speaks a sentence
and records it through the speaker's room and channel, :mod:`.corpus` puts it all into files.
"""
