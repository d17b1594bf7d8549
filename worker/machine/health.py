"""Health: how hot the GPU is, what it draws, and whether it is slowed down, for the worker's row.

A Jetson shows it in sysfs; a graphics card through NVML, which is called by ctypes because no
package has to be there for it. What a machine does not show is left out. Nothing here raises.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterator, Mapping
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

#: nvmlTemperatureSensors_t and nvmlClockType_t (nvml.h).
_TEMPERATURE_GPU, _CLOCK_SM = 0, 1

#: Over-current events that were counted up to the last reading, by the counter's path.
_events: dict[Path, int] = {}


def read(
    root: Path = Path("/"), *, uuid: str | None = None, nvml: str = "libnvidia-ml.so.1"
) -> dict[str, Any]:
    """What is known, as plain numbers and words; {} where there is no NVIDIA GPU.

    `temperature_c`, `power_w`, `load_percent`, `clock_mhz` and `clock_max_mhz` of the GPU;
    `memory_free_mb` and `memory_total_mb` (MiB; on a Jetson those of the machine, which is one
    with its GPU); `power_mode` (nvpmodel's); `throttled`, only while the clocks are held down:
    `thermal`, `power`, `hardware` or several, and `throttled_by`, who does it. `uuid` names the
    GPU among several ("GPU-…"). Takes a few milliseconds.
    """
    health: dict[str, Any] = {}
    library = _library(nvml)
    if library is not None:
        health.update(_card(library, uuid))
    health.update(_jetson(root))
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
    return ", ".join(words)


def _throttled(reasons: list[tuple[str, str]]) -> dict[str, str]:
    if not reasons:
        return {}
    kinds, by = zip(*reasons, strict=True)
    return {"throttled": ", ".join(dict.fromkeys(kinds)), "throttled_by": ", ".join(by)}


# Jetson


def _jetson(root: Path) -> dict[str, Any]:
    """By sysfs; {} on machines that are no Jetson."""
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


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t, in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


#: What each function takes, after nvml.h; all return nvmlReturn_t, where 0 is success. An
#: nvmlDevice_t is a pointer.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "nvmlInit_v2": (),
    "nvmlDeviceGetHandleByIndex_v2": (ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p)),
    "nvmlDeviceGetHandleByUUID": (ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)),
    "nvmlDeviceGetTemperature": (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_uint)),
    "nvmlDeviceGetPowerUsage": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint)),
    "nvmlDeviceGetUtilizationRates": (ctypes.c_void_p, ctypes.POINTER(_Utilization)),
    "nvmlDeviceGetClockInfo": (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_uint)),
    "nvmlDeviceGetMaxClockInfo": (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_uint)),
    "nvmlDeviceGetMemoryInfo": (ctypes.c_void_p, ctypes.POINTER(_Memory)),
    # The newer name of the second; drivers since 535 have both.
    "nvmlDeviceGetCurrentClocksEventReasons": (
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_ulonglong),
    ),
    "nvmlDeviceGetCurrentClocksThrottleReasons": (
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_ulonglong),
    ),
}


@functools.cache
def _library(name: str) -> ctypes.CDLL | None:
    """NVML, initialised once for the process; None without a driver."""
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    for function, takes in _FUNCTIONS.items():
        entry = getattr(library, function, None)
        if entry is not None:
            entry.argtypes, entry.restype = takes, ctypes.c_int
    return library if _call(library, "nvmlInit_v2") else None


def _call(library: ctypes.CDLL, function: str, *arguments: Any) -> bool:
    """Whether this driver has the function and answers it for this card."""
    entry = getattr(library, function, None)
    return entry is not None and entry(*arguments) == 0


def _card(library: ctypes.CDLL, uuid: str | None) -> Iterator[tuple[str, Any]]:
    card = ctypes.c_void_p()
    if uuid is None:
        there = _call(library, "nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(card))
    else:
        there = _call(library, "nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(card))
    if not there:
        return
    number = ctypes.c_uint()
    if _call(library, "nvmlDeviceGetTemperature", card, _TEMPERATURE_GPU, ctypes.byref(number)):
        yield "temperature_c", float(number.value)
    if _call(library, "nvmlDeviceGetPowerUsage", card, ctypes.byref(number)):
        yield "power_w", round(number.value / 1000, 2)  # milliwatts
    load = _Utilization()
    if _call(library, "nvmlDeviceGetUtilizationRates", card, ctypes.byref(load)):
        yield "load_percent", float(load.gpu)
    if _call(library, "nvmlDeviceGetClockInfo", card, _CLOCK_SM, ctypes.byref(number)):
        yield "clock_mhz", number.value
    if _call(library, "nvmlDeviceGetMaxClockInfo", card, _CLOCK_SM, ctypes.byref(number)):
        yield "clock_max_mhz", number.value
    memory = _Memory()
    if _call(library, "nvmlDeviceGetMemoryInfo", card, ctypes.byref(memory)):
        yield "memory_free_mb", memory.free >> 20
        yield "memory_total_mb", memory.total >> 20
    bits = ctypes.c_ulonglong()
    if any(
        _call(library, f"nvmlDeviceGetCurrentClocks{name}Reasons", card, ctypes.byref(bits))
        for name in ("Event", "Throttle")
    ):
        reasons = [reason for bit, reason in _REASONS.items() if bits.value & bit]
        yield from _throttled(reasons).items()
