"""Which networks a number of GPU-days buys: estimates, choice and schedule, all pure.

networks.yaml and hardware.yaml hold the figures with their sources; docs/planning.md tells the
model. A question goes in (`Question`), a `Plan` comes out, and `report` and `gantt` show it.
"""

from launcher.plan.calibration import as_calibration
from launcher.plan.choice import Limits
from launcher.plan.hardware import Hardware, read_hardware
from launcher.plan.measured import Measurement, parse_measurements
from launcher.plan.networks import Network, packaged_networks, parse_networks
from launcher.plan.planner import Plan, Question, make_plan

__all__ = [
    "Hardware",
    "Limits",
    "Measurement",
    "Network",
    "Plan",
    "Question",
    "as_calibration",
    "make_plan",
    "packaged_networks",
    "parse_measurements",
    "parse_networks",
    "read_hardware",
]
