"""When and where the steps run: DAGs and operators. Nothing heavy is imported here."""
