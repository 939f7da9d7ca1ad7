"""Signed releases, the server's side: keys, repository, signing, rollout."""
