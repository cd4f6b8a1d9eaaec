//! YAML to checked values; the only place that knows YAML.
