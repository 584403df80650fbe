"""`triclip explain`: the patches and words that cause the similarity of a picture and a text."""

from __future__ import annotations

import argparse
from typing import Any

from .output import print_json
from .shared import check_plot, load, model_arguments, plot_argument, warn_of_photographs

EXAMPLES = """
  triclip explain photo.jpg "a cat on a sofa" --plot why.pdf
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "explain", help="what the similarity of a picture and a text rests on", examples=EXAMPLES
    )
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    parser.add_argument("text", metavar="TEXT", help="a sentence")
    parser.add_argument("--method", choices=("relevance", "rollout"), default="relevance", help="default: relevance")
    parser.add_argument("--first-layer", type=int, default=0, metavar="N", help="leave out the layers before it")
    plot_argument(parser, "the scores over the picture and beside the words")
    model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..explain import explain

    check_plot(args)
    found = explain(load(args), args.image, args.text, args.method, args.first_layer)
    warn_of_photographs(args.model, [args.image])
    if args.plot:
        from .. import viz

        viz.save(viz.explanations(found), args.plot)
    words = [(word, float(score)) for word, score in zip(found.words, found.word_scores, strict=True)]
    if args.json:
        scores = [{"word": word, "score": score} for word, score in words]
        print_json({"similarity": found.similarity, "words": scores, "patches": found.patches.tolist()})
        return 0
    print(f"similarity {found.similarity:.3f}; {found.method} of the words:")
    for word, score in words:
        print(f"  {score:7.4f}  {word}")
    return 0
