"""Health: what a Jetson's sysfs and a card's NVML say becomes numbers, and one line for people."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from worker.machine import health

#: Of an Orin Nano with JetPack 6 at work.
ORIN = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "58125",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "61031",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone2/temp": "-256000",
    "sys/class/thermal/thermal_zone8/type": "tj-thermal",
    "sys/class/thermal/thermal_zone8/temp": "62500",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "2",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/thermal/cooling_device2/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device2/cur_state": "7",
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "5016",
    "sys/class/hwmon/hwmon1/curr1_input": "2400",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": "5008",
    "sys/class/hwmon/hwmon1/curr2_input": "1000",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon1/in7_input": "12",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "27390",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000",
    "sys/class/devfreq/17000000.gpu/device/load": "875",
    "proc/meminfo": "MemTotal:        7802552 kB\nMemFree:  100000 kB\nMemAvailable:    3145728 kB",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": "# modes\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=0 >",
}

#: Answers as nvml.h declares them, wherever a declaration differs the numbers come out wrong. The
#: handle does not fit into 32 bits; the event reasons are those of a driver older than 535. A card
#: is had by its UUID alone: by its number it may be another than CUDA's of that number.
NVML = r"""
#include <string.h>
typedef void *nvmlDevice_t;
static int begun;
static char board;
#define CARD ((nvmlDevice_t)((char *)0x7f1234567890ULL))
#define CHECK(device) do { if (!begun) return 1; if (device != CARD) return 2; } while (0)
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
int nvmlInitWithFlags(unsigned int flags) { if (flags) return 2; begun = 1; return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{ if (strcmp(uuid, "GPU-5a1e") && strcmp(uuid, "MIG-0b0e")) return 6; *device = CARD; return 0; }
int nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *temp)
{ CHECK(device); if (sensor) return 2; *temp = 83; return 0; }
int nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{ CHECK(device); *power = 691250; return 0; }
int nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *load)
{ CHECK(device); load->gpu = 97; load->memory = 41; return 0; }
int nvmlDeviceGetClockInfo(nvmlDevice_t device, int type, unsigned int *clock)
{ CHECK(device); if (type != 1) return 2; *clock = 1410; return 0; }
int nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int type, unsigned int *clock)
{ CHECK(device); return 3; }
int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{ CHECK(device); memory->total = 85899345920ULL; memory->free = 21474836480ULL;
  memory->used = 64424509440ULL; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons)
{ CHECK(device); *reasons = 0x100000024ULL | 0x1; return 0; }
"""


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """The root folder of an Orin."""
    for name, content in ORIN.items():
        write(tmp_path, name, content)
    return tmp_path


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a library that answers as the driver's does, with one card."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    return str(folder)


def write(root: Path, name: str, content: str) -> None:
    """One file of a tree."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content + "\n")


def jetson(root: Path) -> dict[str, object]:
    """What a Jetson's files say."""
    return health.jetson(root)


def test_an_orin_tells_its_temperature_power_load_memory_and_mode(orin: Path) -> None:
    assert jetson(orin) == {
        "temperature_c": 61.0,
        "power_w": 12.04,
        "clock_mhz": 918,
        "clock_max_mhz": 1020,
        "load_percent": 87.5,
        "memory_free_mb": 3072,
        "memory_total_mb": 7619,
        "power_mode": "MAXN_SUPER",
    }


def test_a_fan_and_the_scaling_of_clocks_are_no_throttling_and_an_alert_is(orin: Path) -> None:
    assert "throttled" not in jetson(orin)
    write(orin, "sys/class/thermal/cooling_device1/cur_state", "1")
    found = jetson(orin)
    assert (found["throttled"], found["throttled_by"]) == ("thermal", "gpu-throttle-alert")
    assert health.text(found) == (
        "61 °C, 12.0 W (MAXN_SUPER), 3.0 GiB free, throttled: thermal (gpu-throttle-alert)"
    )


def test_over_current_is_told_when_it_was_counted_since_the_last_reading(orin: Path) -> None:
    assert "throttled" not in jetson(orin)
    write(orin, "sys/class/hwmon/hwmon3/oc3_event_cnt", "27391")
    found = jetson(orin)
    assert (found["throttled"], found["throttled_by"]) == ("power", "oc3")
    assert "throttled" not in jetson(orin)


def test_the_rails_of_a_board_without_an_input_rail_are_added_up(orin: Path) -> None:
    monitor = "sys/class/hwmon/hwmon1"
    for channel, name in (("1", "VDD_GPU_SOC"), ("2", "VDD_CPU_CV"), ("3", "NC")):
        write(orin, f"{monitor}/in{channel}_label", name)
        write(orin, f"{monitor}/in{channel}_input", "20000")
        write(orin, f"{monitor}/curr{channel}_input", "400")
    assert jetson(orin)["power_w"] == 16.0


def test_without_a_chosen_power_mode_it_is_the_default(orin: Path) -> None:
    (orin / "var/lib/nvpmodel/status").unlink()
    assert jetson(orin)["power_mode"] == "15W"
    (orin / "etc/nvpmodel.conf").unlink()
    assert "power_mode" not in jetson(orin)


def test_sensors_that_are_off_or_broken_are_left_out(orin: Path) -> None:
    write(orin, "sys/class/thermal/thermal_zone1/temp", "-256000")
    assert jetson(orin)["temperature_c"] == 62.5
    write(orin, "sys/class/thermal/thermal_zone8/temp", "what?")
    write(orin, "sys/class/hwmon/hwmon1/in1_input", "")
    write(orin, "proc/meminfo", "\0\xff")
    (orin / "sys/class/devfreq/17000000.gpu/cur_freq").unlink()
    found = jetson(orin)
    assert "temperature_c" not in found
    assert "memory_free_mb" not in found
    assert "clock_mhz" not in found
    assert found["power_w"] == 5.01
    assert health.text(found) == "5.0 W (MAXN_SUPER)"


def test_a_card_tells_the_same_through_the_driver(nvml: str, tmp_path: Path) -> None:
    expected = {
        "temperature_c": 83.0,
        "power_w": 691.25,
        "load_percent": 97.0,
        "clock_mhz": 1410,
        "memory_free_mb": 20480,
        "memory_total_mb": 81920,
        "throttled": "power, thermal",
        "throttled_by": "SwPowerCap, SwThermalSlowdown",
    }
    # In a process of its own: NVML is loaded once, and by its name.
    script = (
        "import json, pathlib, sys; from worker.machine import health;"
        "root = pathlib.Path(sys.argv[1]);"
        "uuids = (None, 'GPU-5a1e', 'GPU-0b0e', 'GPU-gone');"
        "print(json.dumps([health.read(root, uuid=u) for u in uuids]))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env={**os.environ, "LD_LIBRARY_PATH": nvml}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(asked.stdout) == [{}, expected, expected, {}]


def test_a_machine_without_a_gpu_has_nothing_to_say(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "x86_pkg_temp")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "45000")
    write(tmp_path, "proc/meminfo", "MemAvailable:    3145728 kB")
    assert jetson(tmp_path) == {}
    assert health.text({}) == ""


def test_a_reading_opens_a_few_files_and_starts_no_process(orin: Path) -> None:
    jetson(orin)
    seen: list[str] = []
    watching = True
    sys.addaudithook(lambda event, _: seen.append(event) if watching else None)
    jetson(orin)
    watching = False
    assert 0 < seen.count("open") <= 40
    assert not {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"} & set(seen)
