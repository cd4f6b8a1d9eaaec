//! Bodies and patients of known shape as CT series with their exact structure sets.
