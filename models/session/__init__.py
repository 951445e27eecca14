"""The edit session: the record of edits that rides in a LATENT, and the merge of painted pixels."""
