"""torch -> Core ML: a stage becomes an ML Program, compressed and reported weight by weight. coremltools is imported when used."""
