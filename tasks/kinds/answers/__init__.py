"""What several kinds share: prompts, answers, generation, scores of labels."""
