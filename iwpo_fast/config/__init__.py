"""The whole configuration: one tree of dataclasses, the same for YAML files, command-line flags and Python."""

from iwpo_fast.config.candidates import CandidateConfig, ClusterConfig
from iwpo_fast.config.data import (
    LATER_SETTINGS,
    DataConfig,
    MixedConfig,
    PairsFromCandidates,
    Preferred,
    PrefixMismatchPolicy,
    TruncationPolicy,
)
from iwpo_fast.config.model import LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.config.objective import SYNONYMS, ObjectiveConfig
from iwpo_fast.config.optim import OptimConfig
from iwpo_fast.config.plan import DataShapeConfig, PlanConfig
from iwpo_fast.config.rewards import CategoryConfig, FamilyConfig, PessimismConfig, RewardConfig, TuningConfig
from iwpo_fast.config.run import Arm, RunConfig, TrainConfig, dataclass_from
from iwpo_fast.config.training import CheckpointConfig, LogConfig, ReferenceSyncConfig, SampledKLConfig
from iwpo_fast.config.types import TypesConfig
from iwpo_fast.config.weights import EVEN, FORMS, ExperimentalConfig, WeightConfig, WeightForm

__all__ = [
    "EVEN",
    "FORMS",
    "LATER_SETTINGS",
    "SYNONYMS",
    "Arm",
    "CandidateConfig",
    "CategoryConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "DataConfig",
    "DataShapeConfig",
    "ExperimentalConfig",
    "FamilyConfig",
    "LogConfig",
    "LoraConfig",
    "MixedConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PairsFromCandidates",
    "PessimismConfig",
    "PlanConfig",
    "Preferred",
    "PrefixMismatchPolicy",
    "ReferenceSyncConfig",
    "RewardConfig",
    "RunConfig",
    "SampledKLConfig",
    "TinyConfig",
    "TrainConfig",
    "TruncationPolicy",
    "TuningConfig",
    "TypesConfig",
    "WeightConfig",
    "WeightForm",
    "dataclass_from",
]
