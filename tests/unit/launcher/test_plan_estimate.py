"""What runs cost: the team's published days, larger inputs, the three levels and their errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.plan import (
    Limits,
    Measurement,
    Plan,
    Question,
    make_plan,
    packaged_networks,
    parse_measurements,
    parse_networks,
    read_hardware,
)
from launcher.plan.estimate import Device, gpu_days, picture_times
from launcher.resolve import recipes

HARDWARE = read_hardware()
NETWORKS = packaged_networks()

# BigVideo's days on 64 TITAN Xp, 16 M images, 150 epochs.
PUBLISHED_DAYS = {
    "nasnetalarge": 67,
    "pnasnet5large": 61,
    "senet154": 18,
    "resnext152d_32x4d": 12,
    "inception_resnet_v2": 12,
    "dpn98": 11,
    "seresnet152": 9,
}


def plan(gpu: str = "TITAN Xp", **more: object) -> Plan:
    question = {"gpu_type": gpu, "limits": Limits(64), "networks": NETWORKS} | more
    return make_plan(Question(**question), HARDWARE)  # type: ignore[arg-type]


def measurement(**more: object) -> Measurement:
    facts = {
        "model": "dpn98",
        "gpu_type": "NVIDIA H100 80GB HBM3",
        "precision": "bf16",
        "size_px": 224,
    }
    return Measurement(**(facts | {"seconds_per_image": 0.001, "spread_ratio": 0.0} | more))  # type: ignore[arg-type]


def test_every_network_of_the_published_table_is_there_and_has_a_recipe() -> None:
    assert NETWORKS.keys() == PUBLISHED_DAYS.keys()
    assert NETWORKS.keys() <= set(recipes())


@pytest.mark.parametrize("name", PUBLISHED_DAYS)
def test_published_days_are_met_within_15_percent(name: str) -> None:
    [variant] = (each for each in plan().variants if each.run.model == name)
    error = variant.run.gpu_days / 64 / PUBLISHED_DAYS[name] - 1
    assert abs(error) <= 0.15, f"{error:+.1%}"
    assert variant.best.level == "table"


def test_the_told_error_is_what_networks_held_out_of_the_fit_have() -> None:
    """Each network's rate from the others of its kind, as hardware.yaml says of its errors."""
    table = HARDWARE.table("TITAN Xp", "fp32")
    assert table is not None
    kinds: list[list[str]] = [[], []]
    for name, network in NETWORKS.items():
        kinds[network.family == "nas"].append(name)
    for names, told in zip(kinds, (table.error("dpn"), table.error("nas")), strict=True):
        rate = {name: NETWORKS[name].gmac / PUBLISHED_DAYS[name] for name in names}
        errors = [
            rate[name] / (sum(rate[n] for n in names if n != name) / (len(names) - 1)) - 1
            for name in names
        ]
        held_out = (sum(error**2 for error in errors) / len(errors)) ** 0.5
        assert held_out == pytest.approx(told, abs=0.01)


@pytest.mark.parametrize(
    ("name", "counted", "tolerance"),
    [
        ("resnext152d_32x4d", {288: 19.75, 320: 24.38, 384: 35.11, 448: 47.79}, 0.01),
        ("senet154", {320: 42.21, 400: 66.42, 448: 82.73}, 0.01),
        ("pnasnet5large", {416: 37.3, 500: 55.8}, 0.06),
    ],
)
def test_larger_inputs_cost_what_was_counted(
    name: str, counted: dict[int, float], tolerance: float
) -> None:
    for size_px, gmac in counted.items():
        assert NETWORKS[name].grown(size_px)[0] == pytest.approx(gmac, rel=tolerance)


def test_figures_of_the_networks_are_those_of_timm() -> None:
    """Counted anew, for the two cheapest to build of them."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    for name, timm_name in (("dpn98", "dpn98"), ("seresnet152", "legacy_seresnet152")):
        counts = {"mac": 0, "act": 0}

        def add(module: object, _: object, output: object, counts: dict[str, int] = counts) -> None:
            kernel = module.kernel_size[0] * module.kernel_size[1]  # type: ignore[attr-defined]
            inputs = module.in_channels // module.groups  # type: ignore[attr-defined]
            counts["act"] += output.numel()  # type: ignore[attr-defined]
            counts["mac"] += output.numel() * kernel * inputs  # type: ignore[attr-defined]

        with torch.device("meta"):
            network = timm.create_model(timm_name).eval()
            for module in network.modules():
                if isinstance(module, torch.nn.Conv2d):
                    module.register_forward_hook(add)
            network(torch.zeros(1, 3, 224, 224))
        assert counts["mac"] / 1e9 == pytest.approx(NETWORKS[name].gmac, rel=0.002)
        assert counts["act"] / 1e6 == pytest.approx(NETWORKS[name].mact, rel=0.002)


def test_gpu_days_are_pictures_times_seconds() -> None:
    assert gpu_days(0.0276, 16_000_000, 150) == pytest.approx(766.7, abs=0.1)
    assert gpu_days(86_400, 1, 1, shares=0.25) == 1.25


def test_shares_come_on_top() -> None:
    bare = plan().variants[0].run.gpu_days
    more = plan(shares={"evaluation": 0.02, "input": 0.03}).variants[0].run.gpu_days
    assert more == pytest.approx(bare * 1.05)


@given(st.sampled_from(list(NETWORKS.values())), st.sampled_from(["RTX 3090", "TITAN Xp", "H100"]))
def test_twice_the_side_costs_four_times(network: object, gpu: str) -> None:
    for small, large in zip(_times(gpu, network, 224), _times(gpu, network, 448), strict=True):
        assert large.seconds == pytest.approx(4 * small.seconds)


def _times(gpu: str, network: object, size_px: int) -> list:  # type: ignore[type-arg]
    found = HARDWARE.find(gpu)
    assert found is not None
    device = Device(found.name, found, HARDWARE.precisions(found)[0])
    return picture_times(network, size_px, device, HARDWARE)  # type: ignore[arg-type]


def test_the_formula_is_the_limit_that_mlperf_shows() -> None:
    """With the bytes of fused kernels, ResNet-50's 7,009 pictures a second on an H100."""
    from dataclasses import replace

    formula = replace(HARDWARE.formula, bytes_per_activation={"default": 32.5})
    resnet50 = parse_networks("resnet50: {size_px: 224, gmac: 4.1, mact: 11.1}", "x")["resnet50"]
    h100 = HARDWARE.find("nvidia h100")
    assert h100 is not None
    [time] = picture_times(
        resnet50, 224, Device("H100", h100, "amp"), replace(HARDWARE, formula=formula)
    )
    assert 1 / time.seconds == pytest.approx(7009, rel=0.02)
    assert time.level == "formula"


def test_the_best_level_counts_and_all_are_told() -> None:
    [variant] = plan("RTX 3090", networks={"dpn98": NETWORKS["dpn98"]}).variants
    assert [time.level for time in variant.times] == ["table", "formula"]
    assert variant.best.seconds == pytest.approx(1 / 267.62, rel=0.15), "timm's own figure"
    [variant] = plan(
        "RTX 3090",
        networks={"dpn98": NETWORKS["dpn98"]},
        measurements=[measurement(gpu_type="NVIDIA GeForce RTX 3090", spread_ratio=0.05)],
    ).variants
    # The name that CUDA gives is another than the one that people write.
    assert [time.level for time in variant.times] == ["measured", "table", "formula"]
    assert variant.run.gpu_days == gpu_days(0.001, 16_000_000, 150)
    assert variant.best.error_ratio == 0.05
    errors = [time.error_ratio for time in variant.times]
    assert errors == sorted(errors)


def test_a_level_can_be_asked_for() -> None:
    found = plan(level="formula")
    assert {variant.best.level for variant in found.variants} == {"formula"}
    found = plan("V100", level="table")
    assert not found.variants
    assert all("no estimate on V100 by table" in line for line in found.refusals.values())


def test_a_measurement_at_another_size_is_scaled_and_trusted_less() -> None:
    at = measurement().at(448)
    assert at == (pytest.approx(0.004), pytest.approx(0.09))
    assert measurement(spread_ratio=0.2).at(224) == (0.001, 0.2)
    two = [measurement(), measurement(size_px=320, seconds_per_image=0.01)]
    networks = {"dpn98": NETWORKS["dpn98"]}
    [variant] = plan("H100", networks=networks, measurements=two, sizes_px=(300,)).variants
    assert variant.best.seconds == pytest.approx(0.01 * (300 / 320) ** 2), "the nearer one"


def test_a_gpu_that_only_measurements_know_is_planned_by_them_alone() -> None:
    found = plan("NVIDIA B300", measurements=[measurement(gpu_type="B300")])
    assert [variant.run.model for variant in found.variants] == ["dpn98"]
    assert set(found.refusals) == NETWORKS.keys() - {"dpn98"}
    with pytest.raises(UsageError, match=r"'B300' is unknown; known are TITAN Xp, .*calibrate"):
        plan("B300")


def test_precision_is_the_tables_or_the_asked_one() -> None:
    assert plan("V100").device.precision == "amp"
    assert plan("V100", precision="fp32").device.precision == "fp32"
    with pytest.raises(UsageError, match="amp is unknown for the TITAN Xp; known is fp32"):
        plan("TITAN Xp", precision="amp")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "x must hold keys and values"),
        ("a: {size_px: 224, gmac: 1", "x is not valid YAML in line"),
        ("a: 3", "a in x is 3, but it must hold keys and values"),
        ("a: {size_px: 224, gmac: 1}", "a in x lacks mact"),
        ("a: {size_px: 224, gmac: 1, mact: -1}", "mact of a in x is -1, but a number above 0"),
        ("a: {size_px: 224, gmac: yes, mact: 1}", "gmac of a in x is True"),
        ("a: {size_px: 224, gmac: 1, mact: 1, top: 3}", "'top', which is unknown"),
        ("a: {size_px: 224, gmac: 1, mact: 1, top1: 120}", "above 0 and at most 100"),
    ],
)
def test_a_network_that_cannot_be_meant_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_networks(text, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "x has no measurements"),
        ("{measurements: [{model: a}]}", "measurement 0 of x lacks gpu_type"),
        ("{measurements: [3]}", "measurement 0 of x is 3"),
    ],
)
def test_a_file_that_is_no_calibration_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_measurements(text, "x")
