#!/bin/bash
# Makes v0.1.0.db.gz with release 0.1.0 itself. It is kept, so that nobody need run this again.
#
#   PYTHONPATH=/folder/of/0.1.0 LOGNAME=kim unshare --uts bash tests/data/v0.1.0.sh /srv/work
#
# The packages of 0.1.0 are those of its commit (see releases.toml). The last step leaves out the bytes of
# the model files: 45 MB each.
set -euo pipefail
hostname ward
mkdir -p "$1"
cd "$1"
export PNEUMOQ_HOME=$1/home PNEUMOQ_SWEEP_S=1 PNEUMOQ_TRAIN_THREADS=2 PNEUMOQ_SITE_KEY=$(printf 'k%.0s' {1..40})
unset PNEUMOQ_DATABASE_URL PNEUMOQ_BROKER_URL
pneumoq() { python -m scheduler "$@"; }

python - <<'PY'
import io, zipfile
from pathlib import Path
from PIL import Image
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from trainer import phantom

phantom.write_folder(Path("films"), 24)
phantom.write_folder(Path("judge"), 16, seed=7)
phantom.write_zip(Path("archive.zip"), 8, first_patient=100)
phantom.write_zip(Path("large.zip"), 60, first_patient=200)
with zipfile.ZipFile("archive.zip", "a") as archive:
    whole = archive.read(archive.namelist()[0])
    archive.writestr("broken/cut.jpeg", whole[: len(whole) // 3])
    archive.writestr("broken/page.png", b"<html>no film</html>")
    small = io.BytesIO()
    Image.new("L", (16, 16), 90).save(small, "PNG")
    archive.writestr("small.png", small.getvalue())
    archive.writestr("again/copy.jpeg", whole)
Path("dicom").mkdir()
for number, view in enumerate(("PA", "PA", "LL")):
    film = Image.open(io.BytesIO(next(iter(phantom.films(1, number))).data)).convert("L")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.3.{number}"
    dataset.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", view
    dataset.PatientID, dataset.StudyInstanceUID, dataset.AccessionNumber = "made up", "1.2.4", "5"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Rows, dataset.Columns = film.height, film.width
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = film.tobytes()
    dataset.save_as(f"dicom/{number}.dcm", enforce_file_format=True)
PY

pneumoq db upgrade
python -m scheduler up > up.log 2>&1 &
up=$!
until pneumoq doctor 2> /dev/null | grep -q 'worker train'; do sleep 1; done

pneumoq train films --init scratch --size 32 --epochs 2 --name first --wait
pneumoq train films --init scratch --size 32 --epochs 2 --seed 1 --name second --wait
pneumoq models promote second --reason "to try it"
pneumoq models rollback --reason "back again"
pneumoq score archive.zip --keep-cam all --key monday --wait || true       # job 3: with errors
pneumoq score archive.zip --wait || true                                   # job 4: answered from job 3
pneumoq score dicom --wait || true                                         # job 5: hashed names, a refusal
python - <<'PY'
import csv, zipfile
names = [name for name in zipfile.ZipFile("archive.zip").namelist() if "patient" in name or "person" in name]
with open("truth.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["name", "label"])
    rows.writerows([name, "PNEUMONIA" if n % 2 else "NORMAL"] for n, name in enumerate(names))
PY
pneumoq labels import truth.csv --job 3 || true
pneumoq jobs retry 3 --failed-only --wait || true                          # job 6
pneumoq models evaluate first judge || true
pneumoq schedule add nightly --cron "0 2 * * *" --tz Europe/Paris --evaluate-on judge \
    train films --init scratch --size 32 --epochs 1
mkdir inbox && cp archive.zip inbox
pneumoq schedule add inbox --cron "*/10 * * * *" --settle 1s score "$1/inbox"
pneumoq schedule run inbox
pneumoq schedule run nightly
until [ "$(pneumoq schedule runs --json | grep -c '"finished_at": "')" -ge 2 ]; do sleep 2; done
pneumoq schedule pause inbox
pneumoq score archive.zip --force --priority 3 --wait || true              # job 9
pneumoq score dicom --force --wait || true                                 # job 10
pneumoq score large.zip films judge --force --wait                         # job 11

python - <<'PY'                                                            # job 12: paused half-way
import subprocess, sys
from db import control, database, jobs
from db.errors import NotFound
from scheduler import session
engine = session.database()
sources = ["large.zip", "films", "judge", "archive.zip", "dicom", "large.zip"]
submitting = subprocess.Popen([sys.executable, "-m", "scheduler", "score", *sources, "--force"])
done = 0
while not done:
    try:
        done = jobs.progress(engine, 12)["shards_done"]
    except NotFound:
        pass
database.write(engine, lambda c: control.pause(c, 12, session.who(), "the ward needs the machine"))
submitting.wait()
PY
sleep 5
kill -TERM $up
wait $up || true
pneumoq score archive.zip --force --later                                  # job 13 stays queued
pneumoq score dicom --force --later                                        # job 14
pneumoq jobs cancel 14 --reason "submitted twice"

python - <<'PY'
import gzip, os, sqlite3
from pathlib import Path
file = Path(os.environ["PNEUMOQ_HOME"]) / "pneumoq.db"
with sqlite3.connect(file) as connection:
    connection.execute("DELETE FROM model_chunks WHERE chunk_no > 0")
    connection.execute("UPDATE model_chunks SET data = substr(data, 1, 64)")
connection.execute("PRAGMA journal_mode = DELETE")
connection.execute("VACUUM")
connection.close()
Path("v0.1.0.db.gz").write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
PY
ls -l v0.1.0.db.gz
