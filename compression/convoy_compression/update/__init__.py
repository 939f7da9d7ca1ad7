"""Codecs: how one update becomes the payload of an envelope. One codec, one file."""
