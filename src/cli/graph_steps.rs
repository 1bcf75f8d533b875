//! `--graph-steps`

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ops::GraphSteps;

/// Steps of a graph, at most: so many come between two looks at whether the run shall end.
const MOST: usize = 64;

/// How many training steps a CUDA device runs as one graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
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

/// As it stands in files.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(usize),
    Word(String),
}

impl From<GraphStepsChoice> for Written {
    fn from(choice: GraphStepsChoice) -> Self {
        match choice {
            GraphStepsChoice::Auto => Self::Word(choice.to_string()),
            GraphStepsChoice::Count(steps) => Self::Number(steps),
        }
    }
}

impl TryFrom<Written> for GraphStepsChoice {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(steps) => steps.to_string().parse(),
            Written::Word(word) => word.parse(),
        }
    }
}
