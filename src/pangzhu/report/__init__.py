"""The proof as a page: verdict, figures, every answer, curves, plan against actual; and the model card that says the same."""
