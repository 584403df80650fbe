"""One contract for three backends: cases as data, golden arrays from transformers 4.37.2, and the tests of both."""
