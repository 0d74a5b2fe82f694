"""Thumbnails of sounds: a program, here this file, is run for each of them by `--command`.

    $ python examples/waveforms.py make sounds
    sounds/a4.wav
    sounds/broken.wav
    sounds/chirp.wav
    sounds/silence.wav
    $ ztasks run --command 'python examples/waveforms.py draw {} {.}.svg' --glob 'sounds/*.wav' -o drawn.jsonl
    [sounds/broken.wav] sounds/broken.wav: ...
    ztasks: 4 jobs: 3 ok, 1 failed
    ...
      1 x CommandFailed, such as sounds/broken.wav: exit code 1: sounds/broken.wav: ...
    ...

`sounds/a4.svg` is the picture of `sounds/a4.wav`: {} is the input, {.} is the input without its extension. What the
program prints is the result in the record. An exit code other than 0 fails the record, which then has the code and the
end of its stderr. It is the same with the programs that you would use:

    ztasks run --command 'ffmpeg -y -i {} -filter_complex showwavespic -frames:v 1 {.}.png' --glob 'sounds/*.wav'
    ztasks run --command 'convert {} -auto-orient -thumbnail 320x320 thumbs/{stem}.jpg' --glob 'photos/**/*.jpg'
"""

import math
import sys
import wave
from array import array
from collections.abc import Callable
from pathlib import Path

RATE = 8000
WIDTH, HEIGHT = 320, 64


def make(folder: Path) -> None:
    """Write some sounds of half a second, and a file that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    sounds: dict[str, Callable[[float], float]] = {
        "a4": lambda t: 0.8 * math.sin(2 * math.pi * 440 * t),
        "chirp": lambda t: t * math.sin(2 * math.pi * 800 * t * t),
        "silence": lambda t: 0.0,
    }
    for name, value in sounds.items():
        samples = array("h", (round(32767 * value(n / RATE)) for n in range(RATE // 2)))
        if sys.byteorder == "big":
            samples.byteswap()
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())
    (folder / "broken.wav").write_bytes(b"the recorder ran out of power")
    for path in sorted(folder.glob("*.wav")):
        print(path)


def draw(sound: Path, picture: Path) -> None:
    """Draw the loudness of a sound over time as SVG, and print its length and its peak."""
    with wave.open(str(sound), "rb") as file:
        if file.getsampwidth() != 2:
            raise wave.Error("only samples of 16 bits can be drawn")
        samples = array("h", file.readframes(file.getnframes()))
        seconds = file.getnframes() / file.getframerate()
    if sys.byteorder == "big":
        samples.byteswap()
    step = max(1, len(samples) // WIDTH)
    bars = []
    for x in range(min(WIDTH, len(samples))):
        height = max(map(abs, samples[x * step : (x + 1) * step])) * HEIGHT // 32768
        bars.append(f"M{x} {(HEIGHT - height) // 2}v{max(1, height)}")
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
    picture.write_text(f'{svg}<path stroke="navy" d="{"".join(bars)}"/></svg>\n')
    peak = max(map(abs, samples), default=0) / 32767
    print(f"{seconds:.2f} s, peak {peak:.2f}")


def main(arguments: list[str]) -> int | str:
    match arguments:
        case ["make", folder]:
            make(Path(folder))
        case ["draw", sound, picture]:
            try:
                draw(Path(sound), Path(picture))
            except (OSError, EOFError, wave.Error) as error:
                return f"{sound}: {error or 'it ends too early'}"
        case _:
            print(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
