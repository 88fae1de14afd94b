"""A synthetic corpus in the layout of Common Voice 4 and CoVoST 2, spoken by espeak-ng.

:mod:`.grammar` draws sentences with their English translations, :mod:`.voices` reads the acoustic
conditions and draws speakers, :mod:`.plan` assigns sentences and speakers to clips, :mod:`.audio`
speaks a sentence and records it through the speaker's room and channel, :mod:`.corpus` writes the
files.
"""
