"""Pictures to pixel values.

`processor.py` has CLIPImageProcessor; `input.py` accepts and reads pictures; `profiles.py` takes one picture through
the steps of transformers or torchvision; `ops.py` has the plain steps; `fast.py` and `resample.py` have faster ones
with the same bytes.
"""
