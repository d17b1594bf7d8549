"""What schedules do by themselves, as chores of any worker. Start at `timetable`: when a schedule's
time has come, its run is made. `watch` looks through the folders of scoring schedules and takes
what is new, as `inbox` finds it, asked through `disks`; `promotion` makes a new
model the champion when the engine checks of all kinds of workers allow it; `fleet` knows what the
workers that are there compute with, and pins a job's precision.
"""
