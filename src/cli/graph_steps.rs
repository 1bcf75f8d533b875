//! `--graph-steps`

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ops::GraphSteps;

/// Steps of a graph, at most: so many come between two looks at whether the run shall end.
const MOST: usize = 64;

/// How many training steps a CUDA device runs as one graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphStepsChoice {
    /// Several where that measures faster, while training.
    #[default]
    Auto,
    Count(usize),
}

impl GraphStepsChoice {
    pub fn graph_steps(self) -> GraphSteps {
        match self {
            Self::Auto => GraphSteps::Auto,
            Self::Count(steps) => GraphSteps::Count(steps),
        }
    }
}

impl FromStr for GraphStepsChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(steps @ 1..=MOST)) => Ok(Self::Count(steps)),
            _ => Err(format!("it must be `auto` or a number of steps, 1 to {MOST}")),
        }
    }
}

impl fmt::Display for GraphStepsChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(steps) => write!(f, "{steps}"),
        }
    }
}

impl Serialize for GraphStepsChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(steps) => serializer.serialize_u64(*steps as u64),
        }
    }
}

impl<'de> Deserialize<'de> for GraphStepsChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// As it stands in files: a number or a word.
struct Written;

impl Visitor<'_> for Written {
    type Value = GraphStepsChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"auto\" or a number of steps, 1 to {MOST}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<GraphStepsChoice, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, steps: i64) -> Result<GraphStepsChoice, E> {
        self.visit_str(&steps.to_string())
    }

    fn visit_u64<E: de::Error>(self, steps: u64) -> Result<GraphStepsChoice, E> {
        self.visit_str(&steps.to_string())
    }
}
