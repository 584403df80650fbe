"""Pictures to pixel values.

`processor.py` is CLIPImageProcessor; `input.py` what counts as a picture, and how it is read; `profiles.py` one picture
through one call's steps, as transformers or torchvision take them; `ops.py` the plain steps; `fast.py` and
`resample.py` the same bytes sooner.
"""
