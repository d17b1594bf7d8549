"""Health: how hot the GPU is, what it draws, and whether it is slowed down, for the worker's row.

A Jetson shows it in sysfs; a graphics card through NVML. What a machine does not show is left out.
Nothing here raises.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

#: Thermal zones, the best first: the GPU's own, then the hottest spot of the chip. Orin and Thor
#: say `gpu-thermal` and `tj-thermal`, Nano and Xavier `GPU-therm` (`cat
#: /sys/class/thermal/thermal_zone*/type` on each; `temp` is in thousandths of a degree: kernel,
#: Documentation/ABI/testing/sysfs-class-thermal).
_ZONES = ("gpu-thermal", "GPU-therm", "tj-thermal")

#: Cooling devices that slow something down when their `cur_state` is not 0: cpu-, gpu-, soc- and
#: cv-throttle-alert, hot-surface-alert (Jetson Linux Developer Guide, "Platform Power and
#: Performance", thermal management). A `pwm-fan` that turns slows nothing, and `devfreq-*` and
#: `cpufreq-*` also move with ordinary scaling.
_SLOWING = re.compile(r"alert$")

#: The GPU among the devfreq devices: 57000000.gpu (Nano), 17000000.gv11b (Xavier), .ga10b and .gpu
#: (Orin with JetPack 5 and 6), gpu-gpc-0 (Thor). From jetson_stats, jtop/core/gpu.py; so is that
#: `device/load` is in tenths of a percent. Frequencies are in Hz.
_GPU_DEVICE = re.compile(r"gpu|gv11b|ga10b|gp10b")

#: The rail through which all of a module's power comes, where one is measured (jetson_stats,
#: jtop/core/power.py); without it, as on an AGX, the rails are added up.
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")

#: Channels that measure nothing or are sums (the same source).
_NO_RAIL = re.compile(r"NC|^sum of")

#: Reasons of nvmlDeviceGetCurrentClocksThrottleReasons that slow the clocks down, by bit (nvml.h,
#: nvmlClocksEventReasons). Idle 0x1, application clocks 0x2, sync boost 0x10 and display 0x100 are
#: somebody's wish and no trouble.
_REASONS = {
    0x4: ("power", "SwPowerCap"),
    0x8: ("hardware", "HwSlowdown"),
    0x20: ("thermal", "SwThermalSlowdown"),
    0x40: ("thermal", "HwThermalSlowdown"),
    0x80: ("power", "HwPowerBrakeSlowdown"),
}

#: Over-current events that were counted up to the last reading, by the counter's path.
_events: dict[Path, int] = {}


def read(root: Path = Path("/"), *, uuid: str | None = None) -> dict[str, Any]:
    """What is known, as plain numbers and words; {} where there is no NVIDIA GPU.

    `temperature_c`, `power_w`, `load_percent`, `clock_mhz` and `clock_max_mhz` of the GPU;
    `memory_free_mb` and `memory_total_mb` (MiB; on a Jetson those of the machine, which is one
    with its GPU); `power_mode` (nvpmodel's); `throttled`, only while the clocks are held down:
    `thermal`, `power`, `hardware` or several, and `throttled_by`, who does it. `uuid` names the
    card that is meant ("GPU-…", as `worker.machine.gpu` finds it); without it none is asked, since
    NVML counts them in another order than CUDA and knows no CUDA_VISIBLE_DEVICES. Takes a few
    milliseconds, or for ever where the driver gives no answer.
    """
    health: dict[str, Any] = {}
    if uuid is not None and _nvml_answers():
        health.update(_card(uuid))
    health.update(jetson(root))
    return health


def text(health: Mapping[str, Any]) -> str:
    """One line for people: `61 °C, 18.3 W, throttled: thermal (gpu-throttle-alert)`."""
    words = []
    if "temperature_c" in health:
        words.append(f"{health['temperature_c']:.0f} °C")
    if "power_w" in health:
        mode = f" ({health['power_mode']})" if "power_mode" in health else ""
        words.append(f"{health['power_w']:.1f} W{mode}")
    elif "power_mode" in health:
        words.append(f"power mode {health['power_mode']}")
    if "memory_free_mb" in health:
        words.append(f"{health['memory_free_mb'] / 1024:.1f} GiB free")
    if "throttled" in health:
        by = f" ({health['throttled_by']})" if health.get("throttled_by") else ""
        words.append(f"throttled: {health['throttled']}{by}")
    if "silent" in health:
        words.append(str(health["silent"]))
    if "left_behind" in health:
        words.append(f"{health['left_behind']} left behind, waiting for a disk or share")
    return ", ".join(words)


def _throttled(reasons: list[tuple[str, str]]) -> dict[str, str]:
    if not reasons:
        return {}
    kinds, by = zip(*reasons, strict=True)
    return {"throttled": ", ".join(dict.fromkeys(kinds)), "throttled_by": ", ".join(by)}


# Jetson


def jetson(root: Path) -> dict[str, Any]:
    """The part of `read` that sysfs shows; {} on machines that are no Jetson."""
    zones = {_word(zone / "type"): zone for zone in root.glob("sys/class/thermal/thermal_zone*")}
    gpu = next(
        (d for d in root.glob("sys/class/devfreq/*") if _GPU_DEVICE.search(d.name)),
        None,
    )
    # Not by the device tree, which containers are not shown.
    if gpu is None and not zones.keys() & set(_ZONES):
        return {}
    found: dict[str, Any] = {}
    # A sensor whose part of the chip is off cannot be read, or reads -256 °C (jetson_stats).
    degrees = (_number(zones[name] / "temp") for name in _ZONES if name in zones)
    warm = next((d for d in degrees if d is not None and d > -100_000), None)
    if warm is not None:
        found["temperature_c"] = round(warm / 1000, 1)
    power = _power(root)
    if power is not None:
        found["power_w"] = power
    if gpu is not None:
        found.update(_clock(gpu, root))
    found.update(_memory(root / "proc/meminfo"))
    mode = _power_mode(root)
    if mode:
        found["power_mode"] = mode
    return found | _throttled([*_alerts(root), *_over_current(root)])


def _power(root: Path) -> float | None:
    """Watts of the module."""
    rails: dict[str, float] = {}
    for folder in root.glob("sys/class/hwmon/hwmon*"):
        name = _word(folder / "name")
        if name == "ina3221":
            rails.update(_rails(folder))
        elif name == "ina238":  # Thor's, of the whole input, in microwatts (hwmon's ABI)
            microwatts = _number(folder / "power1_input")
            if microwatts is not None:
                rails["VIN"] = microwatts / 1e6
    total = next((rails[name] for name in _INPUT_RAILS if name in rails), None)
    if total is None and rails:
        total = sum(rails.values())
    return None if total is None else round(total, 2)


def _rails(folder: Path) -> Iterator[tuple[str, float]]:
    """Watts by rail, of an INA3221: volts are in thousandths, and so are amperes."""
    for label in folder.glob("in*_label"):
        name, channel = _word(label), label.name[2 : -len("_label")]
        millivolts = _number(folder / f"in{channel}_input")
        milliamperes = _number(folder / f"curr{channel}_input")
        if name and not _NO_RAIL.search(name) and millivolts is not None:
            yield name, millivolts * (milliamperes or 0) / 1e6


def _clock(gpu: Path, root: Path) -> Iterator[tuple[str, float]]:
    for key, name in (("clock_mhz", "cur_freq"), ("clock_max_mhz", "max_freq")):
        hertz = _number(gpu / name)
        if hertz is not None:
            yield key, round(hertz / 1e6)
    # `gpu.0` is the name that JetPack 4 and 5 give it as well.
    for file in (gpu / "device/load", root / "sys/devices/gpu.0/load"):
        tenths = _number(file)
        if tenths is not None:
            yield "load_percent", round(tenths / 10, 1)
            return


def _memory(file: Path) -> Iterator[tuple[str, int]]:
    """The whole machine's: its GPU has none of its own."""
    for key, name in (("memory_free_mb", "MemAvailable"), ("memory_total_mb", "MemTotal")):
        kibibytes = re.search(rf"^{name}: +(\d+) kB$", _text(file), re.MULTILINE)
        if kibibytes:
            yield key, int(kibibytes[1]) // 1024


def _power_mode(root: Path) -> str:
    """`15W`, `MAXN`, …: the number is in nvpmodel's `pmode:0002`, its name in nvpmodel.conf."""
    chosen = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    catalogue = _text(root / "etc/nvpmodel.conf")
    # Nobody has chosen one yet: then it is the default.
    chosen = chosen or re.search(r"^< *PM_CONFIG +DEFAULT=(\d+) *>", catalogue, re.MULTILINE)
    if chosen is None:
        return ""
    name = re.search(rf"^< *POWER_MODEL +ID={chosen[1]} +NAME=(\S+) *>", catalogue, re.MULTILINE)
    return name[1] if name else chosen[1]


def _alerts(root: Path) -> Iterator[tuple[str, str]]:
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        name = _word(device / "type")
        if _SLOWING.search(name) and (_number(device / "cur_state") or 0) > 0:
            yield "thermal", name


def _over_current(root: Path) -> Iterator[tuple[str, str]]:
    """Where the module was slowed down since the last reading because it drew too much.

    `oc1` is under-voltage, `oc2` average and `oc3` momentary over-current (Jetson Linux Developer
    Guide, "Over-current event"; the kernel's driver soctherm-oc-event counts them).
    """
    for counter in sorted(root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")):
        count = _number(counter)
        if count is not None:
            before, _events[counter] = _events.get(counter, count), int(count)
            if count > before:
                yield "power", counter.name.removesuffix("_event_cnt")


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _word(file: Path) -> str:
    return _text(file).strip()


def _number(file: Path) -> float | None:
    try:
        return float(_word(file))
    except ValueError:
        return None


# Cards


@functools.cache
def _nvml_answers() -> bool:
    """Whether there is a driver that lets itself be asked; asked once in a process."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _asked(question: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer; None where this driver or this card has none."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return question(*arguments)
    return None


def _card(uuid: str) -> Iterator[tuple[str, Any]]:
    import pynvml

    # What CUDA names GPU-… may be a slice of one, which NVML names MIG-….
    named = (uuid, "MIG-" + uuid.removeprefix("GPU-"))
    asked = (_asked(pynvml.nvmlDeviceGetHandleByUUID, name) for name in named)
    card = next(filter(None, asked), None)
    if card is None:
        return
    degrees = _asked(pynvml.nvmlDeviceGetTemperature, card, pynvml.NVML_TEMPERATURE_GPU)
    if degrees is not None:
        yield "temperature_c", float(degrees)
    milliwatts = _asked(pynvml.nvmlDeviceGetPowerUsage, card)
    if milliwatts is not None:
        yield "power_w", round(milliwatts / 1000, 2)
    load = _asked(pynvml.nvmlDeviceGetUtilizationRates, card)
    if load is not None:
        yield "load_percent", float(load.gpu)
    for key, question in (
        ("clock_mhz", pynvml.nvmlDeviceGetClockInfo),
        ("clock_max_mhz", pynvml.nvmlDeviceGetMaxClockInfo),
    ):
        megahertz = _asked(question, card, pynvml.NVML_CLOCK_SM)
        if megahertz is not None:
            yield key, megahertz
    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, card)
    if memory is not None:
        yield "memory_free_mb", memory.free >> 20
        yield "memory_total_mb", memory.total >> 20
    # Drivers before 535 have the older of the two names only.
    for question in (
        pynvml.nvmlDeviceGetCurrentClocksEventReasons,
        pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    ):
        bits = _asked(question, card)
        if bits is not None:
            reasons = [reason for bit, reason in _REASONS.items() if bits & bit]
            yield from _throttled(reasons).items()
            return
