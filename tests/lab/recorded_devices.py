"""Devices as they were recorded: names and text, as in ``edgepress/runtime/machine/devices/describing/record.py``.

The phone is put together from what such phones print (AOSP's sources, bug reports); none was at hand.
"""

CPU = "sys/devices/system/cpu"
A55, A76, X1 = "0x00000000412fd050", "0x00000000414fd0b0", "0x00000000411fd440"


def phone() -> dict[str, str]:
    """Eight cores of three kinds, as the kernel of such a phone tells them."""
    found = {
        "commands/uname": "Linux\n5.10.157-android13\naarch64",
        "commands/page_size": "4096",
        "commands/getprop": "[ro.product.manufacturer]: [Google]\n[ro.product.model]: [Pixel 6]\n"
        "[ro.soc.manufacturer]: [Google]\n[ro.soc.model]: [Tensor]\n"
        "[ro.build.version.release]: [14]\n[ro.build.version.sdk]: [34]",
        "commands/df": "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/dm-45 113279 13279 100000 12% /data",
        "commands/dumpsys_power": "  mWakefulness=Asleep",
        "proc/meminfo": "MemTotal:        7664640 kB\nMemFree:  100000 kB\nMemAvailable:    3000000 kB",
        f"{CPU}/online": "0-7",
        "sys/class/thermal/thermal_zone0/type": "BIG",
        "sys/class/thermal/thermal_zone0/temp": "41500",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "active",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "60000",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "70000",
        "sys/class/power_supply/battery/type": "Battery",
        "sys/class/power_supply/battery/status": "Charging",
        "sys/class/power_supply/battery/capacity": "83",
        "sys/class/power_supply/battery/temp": "294",
        "sys/class/power_supply/battery/voltage_now": "4123000",
        "sys/class/power_supply/battery/current_now": "-351562",
        "sys/class/power_supply/usb/type": "USB",
        "sys/bus/iio/devices/iio:device0/name": "s2mpg10-odpm",
        "sys/bus/iio/devices/iio:device1/name": "bmp390",
    }
    for core, midr, khz, capacity in (
        *((core, A55, 1803000, 124) for core in range(4)),
        *((core, A76, 2253000, 427) for core in (4, 5)),
        *((core, X1, 2802000, 1024) for core in (6, 7)),
    ):
        found |= {
            f"{CPU}/cpu{core}/regs/identification/midr_el1": midr,
            f"{CPU}/cpu{core}/cpu_capacity": str(capacity),
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "sched_pixel",
            f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": str(khz),
            f"{CPU}/cpu{core}/cpufreq/scaling_max_freq": str(khz),
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": "738000",
        }
    return found


def board() -> dict[str, str]:
    """Four cores of one kind, as a Raspberry Pi 5's kernel tells them; its processor is in /proc/cpuinfo alone."""
    found = {
        "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0",
        "sys/firmware/devicetree/base/compatible": "raspberrypi,5-model-b brcm,bcm2712",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
        "proc/meminfo": "MemTotal:        8246096 kB\nMemFree:         6000000 kB\nMemAvailable:    7000000 kB",
        f"{CPU}/online": "0-3",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "48300",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "85000",
        "sys/class/hwmon/hwmon2/name": "ina3221",
    }
    for core in range(4):
        found |= {
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "ondemand",
            f"{CPU}/cpu{core}/cpufreq/cpuinfo_min_freq": "1500000",
            f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": "2400000",
            f"{CPU}/cpu{core}/cpufreq/scaling_max_freq": "2400000",
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": "1500000",
        }
    return found
