"""A hundred CT series with structure sets: `oarlock dataset add` beside `cp -r` and `sync` of the same files, in turn.

    tests/bench/dataset_import.py OARLOCK WORK_DIR [--patients 100] [--rounds 3]

Eight phantoms of 120 slices of 512 x 512 are made and repeated under other UIDs, patient numbers and a changed pixel, so that
each is a patient of its own: 6 GB, and as much for each of the two. With root's rights both begin without a file in the
system's memory, otherwise it says that they do not.
"""
import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

PHANTOMS = 8


def phantoms(oarlock, folder, count):
    for seed in range(1, count + 1):
        size = ["--slices", "120", "--size", "512", "512", "--spacing", "2.5", "0.977", "0.977"]
        command = [oarlock, "phantom", "-o", folder / f"p{seed}", "--seed", str(seed), *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.iterdir())


def repeat(source, target, number):
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        content = path.read_bytes()
        is_image = path.suffix == ".dcm" and path.parent != source
        head, pixels = (content[:6000], bytearray(content[6000:])) if is_image else (content, bytearray())
        head = re.sub(rb"2\.25\.\d{4}", b"2.25.%04d" % (1000 + number), head)
        head = re.sub(rb"PHANTOM-SEED \d", b"PHANTOM-S %03d " % number, head)
        if is_image:
            middle = len(pixels) // 2 // 2 * 2
            pixels[middle] = (pixels[middle] + number) % 256
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(head + pixels)


def forget():
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    time.sleep(1)
    return True


def timed(work):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    taken, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oarlock")
    parser.add_argument("work", type=Path)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.oarlock = shutil.which(args.oarlock) or sys.exit(f"no program {args.oarlock}")
    folder, copy, dataset = (args.work / name for name in ("patients", "copy", "dataset"))
    if not folder.exists():
        seeds = args.work / "phantoms"
        sources = phantoms(args.oarlock, seeds, min(PHANTOMS, args.patients))
        for number in range(args.patients):
            repeat(sources[number % len(sources)], folder / f"c{number:03}", number)
        shutil.rmtree(seeds)

    def add():
        command = [args.oarlock, "dataset", "add", folder, "--to", dataset, "--licence", "made up"]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        assert f"{args.patients} cases taken, 0 refused" in told, told

    def cp():
        subprocess.run(["cp", "-r", folder, copy], check=True)
        subprocess.run(["sync"], check=True)

    for _ in range(args.rounds):
        for name, work, made in (("cp -r, sync", cp, copy), ("dataset add", add, dataset)):
            where = "from disk" if forget() else "as the system has the files"
            seconds, cpu_seconds = timed(work)
            print(f"{name:12} {seconds:6.2f} s  {cpu_seconds:6.2f} CPU s  {where}", flush=True)
            shutil.rmtree(made)


if __name__ == "__main__":
    main()
