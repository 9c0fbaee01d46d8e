"""Stage: one MuJoCo model that holds everything a scene may need, simulated and rendered clip by clip.

A model and its GL context are made once per process; a scene only moves, resizes and recolours what is there, so that
thousands of clips are drawn in minutes. Units: a scene is about five units wide, x to the right, y away from the
camera, z up; velocities are in units per frame.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
SHAPES = ("ball", "box", "cylinder")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.9, 0.12, 0.1),
    "green": (0.1, 0.7, 0.15),
    "blue": (0.12, 0.25, 0.95),
    "yellow": (0.95, 0.85, 0.1),
    "purple": (0.6, 0.1, 0.75),
    "white": (0.95, 0.95, 0.95),
}
FLOORS, SCREENS = 4, 3  # materials to choose from
FRAME_SECONDS = 0.1
_SUBSTEPS = 10
_SUPERSAMPLE = 2  # drawn so many times larger and averaged: half the time of MuJoCo's multisampling
_GRAVITY = 5.0
_AWAY = (0.0, 0.0, -30.0)
_THICKNESS = 0.06  # half of it, of screens


@dataclass(frozen=True)
class Thing:
    """The object of a scene.

    Attributes:
        shape: one of SHAPES.
        colour: one of COLOURS.
        radius: half its width and height.
        start: (x, y, z) of its lowest point in the first frame.
        velocity: along x, units per frame.
        turn: about the vertical, radians.
    """

    shape: str
    colour: str
    radius: float
    start: tuple[float, float, float]
    velocity: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True)
class Screen:
    """An upright board between the camera and the objects; nothing touches it.

    Attributes:
        x, y: of its foot.
        width, height: of the board.
        rises: (first frame of rising, first of standing, last of standing, first of lying again), or None where it
            stands all the time.
        material: 0 .. SCREENS - 1.
    """

    x: float
    y: float
    width: float
    height: float
    rises: tuple[float, float, float, float] | None = None
    material: int = 0

    def tilt(self, frame: float) -> float:
        """Angle towards the camera, radians: 0 upright, pi / 2 flat on the floor."""
        if self.rises is None:
            return 0.0
        return float(np.interp(frame, self.rises, (np.pi / 2, 0.0, 0.0, np.pi / 2)))


@dataclass(frozen=True)
class Board:
    """A shelf, platform or wall.

    Attributes:
        centre, half: position and half sizes (x, y, z).
        leaves: frame at which it starts to slide away to the right, or None.
    """

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    leaves: float | None = None

    def at(self, frame: float) -> tuple[float, float, float]:
        """Position at a frame."""
        gone = 0.0 if self.leaves is None else max(0.0, frame - self.leaves)
        x, y, z = self.centre
        return x + 1.1 * gone, y, z


@dataclass(frozen=True)
class View:
    """Camera, light and floor of a scene.

    Attributes:
        azimuth, elevation: of the camera, degrees.
        distance: from the middle of the scene.
        light: (x, y) of the direction light falls, for -1 downwards.
        floor: material, 0 .. FLOORS - 1.
    """

    azimuth: float
    elevation: float
    distance: float
    light: tuple[float, float]
    floor: int


@dataclass(frozen=True)
class Scene:
    """What is seen, and what acts.

    Attributes:
        view: camera, light and floor.
        thing: the object, or None.
        screen: an occluder, or None.
        looks: boards that are seen.
        solids: boards that the object touches; the same as `looks` in a possible scene.
        frames: of the clip.
    """

    view: View
    thing: Thing | None
    screen: Screen | None = None
    looks: tuple[Board, ...] = ()
    solids: tuple[Board, ...] = ()
    frames: int = 16


_XML = """
<mujoco>
  <option timestep="{timestep}" gravity="0 0 -{gravity}"/>
  <visual>
    <global offwidth="{size}" offheight="{size}" fovy="45"/>
    <quality shadowsize="512" offsamples="0" numslices="16" numstacks="10"/>
    <headlight ambient=".35 .35 .35" diffuse=".25 .25 .25" specular="0 0 0"/>
    <map znear=".05" zfar="60"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".75 .82 .9" rgb2=".45 .5 .58" width="64" height="384"/>
    <texture name="f0" type="2d" builtin="checker" rgb1=".42 .36 .3" rgb2=".5 .44 .38" width="64" height="64"/>
    <texture name="f1" type="2d" builtin="checker" rgb1=".3 .36 .42" rgb2=".36 .43 .5" width="64" height="64"/>
    <texture name="f2" type="2d" builtin="gradient" rgb1=".5 .5 .46" rgb2=".38 .38 .36" width="64" height="64"/>
    <texture name="f3" type="2d" builtin="checker" rgb1=".34 .42 .32" rgb2=".4 .48 .38" width="64" height="64"/>
    <texture name="s0" type="2d" builtin="checker" rgb1=".62 .5 .34" rgb2=".7 .58 .42" width="64" height="64"/>
    <texture name="s1" type="2d" builtin="gradient" rgb1=".5 .55 .6" rgb2=".35 .38 .45" width="64" height="64"/>
    <texture name="s2" type="2d" builtin="checker" rgb1=".3 .3 .34" rgb2=".38 .38 .42" width="64" height="64"/>
    <texture name="thing" type="cube" builtin="checker" rgb1="1 1 1" rgb2=".78 .78 .78" width="64" height="64"/>
    <texture name="wood" type="cube" builtin="gradient" rgb1=".78 .62 .42" rgb2=".6 .45 .3" width="32" height="32"/>
    <material name="floor0" texture="f0" texrepeat=".35 .35" texuniform="true"/>
    <material name="floor1" texture="f1" texrepeat=".3 .3" texuniform="true"/>
    <material name="floor2" texture="f2" texrepeat=".1 .1" texuniform="true"/>
    <material name="floor3" texture="f3" texrepeat=".25 .25" texuniform="true"/>
    <material name="screen0" texture="s0" texrepeat="1 1"/>
    <material name="screen1" texture="s1" texrepeat="1 1"/>
    <material name="screen2" texture="s2" texrepeat="1 1"/>
    <material name="thing" texture="thing" specular=".2" shininess=".3"/>
    <material name="wood" texture="wood"/>
  </asset>
  <default><geom condim="1" margin="0" solref=".01 1"/></default>
  <worldbody>
    <light name="sun" directional="true" pos="0 0 6" dir="0 0 -1" diffuse=".65 .65 .65" specular=".2 .2 .2"
           castshadow="true"/>
    <geom name="floor" type="plane" size="30 30 .1" material="floor0" contype="1" conaffinity="1"/>
    <body name="screen" mocap="true"><geom name="screen" type="box" pos="0 0 .5" size="1 .05 1" material="screen0"
          contype="0" conaffinity="0"/></body>
    {boards}
    <body name="ball"><freejoint/><geom name="ball" type="sphere" size=".5" mass="1" material="thing" contype="1"
          conaffinity="3"/></body>
    <body name="box"><freejoint/><geom name="box" type="box" size=".5 .5 .5" mass="1" material="thing" contype="1"
          conaffinity="3"/></body>
    <body name="cylinder"><freejoint/><geom name="cylinder" type="cylinder" size=".5 .5" mass="0" material="thing"
          contype="0" conaffinity="0"/><geom name="cylinder_solid" type="box" size=".5 .5 .5" mass="1" rgba="0 0 0 0"
          contype="1" conaffinity="3"/></body>
  </worldbody>
</mujoco>
"""
_BOARD = """
    <body name="look{0}" mocap="true"><geom name="look{0}" type="box" size="1 1 .1" material="wood" contype="0"
          conaffinity="0"/></body>
    <body name="solid{0}" mocap="true"><geom name="solid{0}" type="box" size="1 1 .1" rgba="0 0 0 0" contype="2"
          conaffinity="1"/></body>"""
_MOST_BOARDS = 2
# A cylinder touches things as a box: as a cylinder it loses the floor after it has met a wall, sinks, and is thrown up.
_SOLID = {"ball": "ball", "box": "box", "cylinder": "cylinder_solid"}


class Stage:
    """Draws scenes at one size.

    Args:
        size: of the square pictures, pixels.

    Raises:
        ImportError: MuJoCo, or a GL library that draws without a screen, is missing; says how to get it.
    """

    def __init__(self, size: int) -> None:
        os.environ.setdefault("MUJOCO_GL", "egl")  # no window is wanted; OSMesa where the user says so
        try:
            import mujoco
        except ImportError as error:
            raise ImportError(
                "simulated worlds need MuJoCo: pip install 'jepa-hub[physics]' (evaluation on the suite that comes "
                "with the package does not)"
            ) from error
        except Exception as error:  # MuJoCo's GL loaders raise whatever they meet
            raise ImportError(_no_gl(error)) from error
        self._mujoco: Any = mujoco
        boards = "".join(_BOARD.format(number) for number in range(_MOST_BOARDS))
        xml = _XML.format(timestep=FRAME_SECONDS / _SUBSTEPS, gravity=_GRAVITY, size=_SUPERSAMPLE * size, boards=boards)
        self.model: Any = mujoco.MjModel.from_xml_string(xml)
        self.data: Any = mujoco.MjData(self.model)
        self.camera: Any = mujoco.MjvCamera()
        try:
            self._renderer: Any = mujoco.Renderer(self.model, _SUPERSAMPLE * size, _SUPERSAMPLE * size)
        except Exception as error:
            if getattr(mujoco, "GLContext", mujoco).__module__ == "mujoco.glfw":  # chosen when it was first imported
                raise ImportError(
                    "MuJoCo was imported before, and set up to draw into a window, which this machine has not: "
                    "set MUJOCO_GL=egl in the environment"
                ) from error
            raise ImportError(_no_gl(error)) from error

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()

    def draw(self, scene: Scene) -> Pixels:
        """The clip of a scene, uint8 [F, H, W, 3]."""
        model, data = self.model, self.data
        self._mujoco.mj_resetData(model, data)
        self._set_view(scene.view)
        self._set_boards(scene)
        self._set_thing(scene.thing)
        pictures = []
        for frame in range(scene.frames):
            if frame:
                for substep in range(_SUBSTEPS):
                    self._move(scene, frame - 1 + (substep + 1) / _SUBSTEPS)
                    self._mujoco.mj_step(model, data)
            self._move(scene, frame)
            self._mujoco.mj_forward(model, data)
            self._renderer.update_scene(data, self.camera)
            pictures.append(_shrink(self._renderer.render()))
        return np.stack(pictures)  # [F, H, W, 3]

    def _geom(self, name: str) -> int:
        return int(self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_GEOM, name))

    def _material(self, name: str) -> int:
        return int(self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_MATERIAL, name))

    def _mocap(self, name: str) -> int:
        return int(self.model.body(name).mocapid[0])

    def _set_view(self, view: View) -> None:
        self.camera.azimuth, self.camera.elevation = 90 + view.azimuth, -view.elevation
        self.camera.distance, self.camera.lookat[:] = view.distance, (0, 0, 0.95)
        direction = np.array([*view.light, -1.0])
        self.model.light("sun").dir[:] = direction / np.linalg.norm(direction)
        self.model.geom_matid[self._geom("floor")] = self._material(f"floor{view.floor}")

    def _set_boards(self, scene: Scene) -> None:
        for boards in (scene.looks, scene.solids):
            if len(boards) > _MOST_BOARDS:
                raise ValueError(f"a scene has at most {_MOST_BOARDS} boards, got {len(boards)}")
        for kind, boards in (("look", scene.looks), ("solid", scene.solids)):
            for number in range(_MOST_BOARDS):
                geom = self._geom(f"{kind}{number}")
                half = boards[number].half if number < len(boards) else (0.1, 0.1, 0.1)
                self.model.geom_size[geom] = half
                self._resize(geom, half)
        if scene.screen is not None:
            geom, screen = self._geom("screen"), scene.screen
            half = (screen.width / 2, _THICKNESS / 2, screen.height / 2)
            self.model.geom_size[geom] = half
            self.model.geom_pos[geom] = (0, 0, screen.height / 2)
            self.model.geom_matid[geom] = self._material(f"screen{screen.material}")
            self._resize(geom, half)

    def _resize(self, geom: int, half: tuple[float, ...]) -> None:
        """Bounds that MuJoCo computed when the model was made, for the new size."""
        self.model.geom_rbound[geom] = float(np.linalg.norm(half))
        self.model.geom_aabb[geom] = [0, 0, 0, *half]

    def _set_thing(self, thing: Thing | None) -> None:
        for shape in SHAPES:
            body, geom = self.model.body(shape), self._geom(shape)
            at, spin = int(self.model.jnt_qposadr[body.jntadr[0]]), int(self.model.jnt_dofadr[body.jntadr[0]])
            wanted = thing is not None and thing.shape == shape
            solid = self._geom(_SOLID[shape])
            self.model.geom_contype[solid], self.model.geom_conaffinity[solid] = (1, 3) if wanted else (0, 0)
            if thing is None or not wanted:
                self.model.geom_rgba[geom] = (0, 0, 0, 0)
                self.data.qpos[at : at + 7] = (*_AWAY, 1, 0, 0, 0)
                continue
            half = (thing.radius,) * 3
            for each in {geom, solid}:
                self.model.geom_size[each] = half
                self._resize(each, half)
            self.model.geom_rgba[geom] = (*COLOURS[thing.colour], 1)
            x, y, z = thing.start
            self.data.qpos[at : at + 7] = (x, y, z + thing.radius, np.cos(thing.turn / 2), 0, 0, np.sin(thing.turn / 2))
            self.data.qvel[spin] = thing.velocity / FRAME_SECONDS

    def _move(self, scene: Scene, frame: float) -> None:
        for kind, boards in (("look", scene.looks), ("solid", scene.solids)):
            for number in range(_MOST_BOARDS):
                where = boards[number].at(frame) if number < len(boards) else _AWAY
                self.data.mocap_pos[self._mocap(f"{kind}{number}")] = where
        place = self._mocap("screen")
        if scene.screen is None:
            self.data.mocap_pos[place] = _AWAY
            return
        tilt = scene.screen.tilt(frame)
        self.data.mocap_pos[place] = (scene.screen.x, scene.screen.y, 0.03 * np.sin(tilt))
        self.data.mocap_quat[place] = (np.cos(tilt / 2), np.sin(tilt / 2), 0, 0)


def _shrink(picture: Pixels) -> Pixels:
    """[k * H, k * W, 3] to [H, W, 3] by averages."""
    height, width = (side // _SUPERSAMPLE for side in picture.shape[:2])
    blocks = picture.reshape(height, _SUPERSAMPLE, width, _SUPERSAMPLE, 3).astype(np.uint16)
    return ((blocks.sum((1, 3)) + _SUPERSAMPLE**2 // 2) // _SUPERSAMPLE**2).astype(np.uint8)


def _no_gl(error: Exception) -> str:
    return (
        "MuJoCo finds no GL library that draws without a screen "
        f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). On Debian or Ubuntu: "
        "apt-get install --no-install-recommends libegl1 (MUJOCO_GL=egl), or libosmesa6 with MUJOCO_GL=osmesa"
    )
