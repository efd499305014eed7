"""What all views share: images, model, settings, the plan of them, and the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal, SignalInstance

from napari_tessera.core.errors import InputError, SettingsError
from napari_tessera.session.background import Background, Planner
from napari_tessera.session.image_input import AxisUse, ImageInput, Reading, counts_planes
from napari_tessera.session.intensity_cache import IntensityCache
from napari_tessera.session.model_list import ModelList
from napari_tessera.session.runner import Fitting, Runner
from napari_tessera.session.sources import VolumeInput, read_volumes
from napari_tessera.session.task import Outputs, Task
from napari_tessera.session.wording import sentence

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.core.settings.knobs import Knob
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.session.mask import MaskInput

# A change of what is free that moves a bar by less is not seen.
SEEN = 0.01


class Session:
    """The state behind the dock. All methods and signals belong to the thread that calls `background.deliver`."""

    images_changed = Signal()
    settings_changed = Signal()
    plan_changed = Signal()

    def __init__(self) -> None:
        self.background = Background()
        self.models = ModelList(self.background)
        self.runner = Runner(self.background)
        self.fitting = Fitting(self.background)
        self._planner = Planner(self.background, self._planned)
        self.images: tuple[ImageInput, ...] = ()  # as captured last
        self.axis_use = AxisUse.AUTO  # what the user says about the axis in front
        self.mask: MaskInput | None = None  # where to compute, as captured last; None: everywhere
        self.settings: Settings | None = None  # until a model is there
        self.outputs = Outputs()
        self.readings: tuple[Reading, ...] = ()  # how the images are read
        self.volumes: tuple[VolumeInput, ...] = ()  # empty where `problem` says why
        self.plan: Plan | None = None  # of the present choice, while it is known
        self.problem = ""  # what is wrong with images or settings, a sentence
        self.refused = ""  # why the last choice was not taken
        self.changed_since_run = False  # whether images or model are others than those of the last run
        self._intensities = IntensityCache()
        self._model: Model | None = None
        self._renewing = False
        self.models.changed.connect(self._on_models)
        self.runner.changed.connect(self._on_run)
        self.fitting.changed.connect(self._on_fitting)

    @property
    def model(self) -> Model | None:
        """The model in use."""
        return self.models.model

    @property
    def max_tta_num(self) -> int:
        """How many views there are of the model's axes, those left out that may not be reflected."""
        from napari_tessera.core.settings.views import max_views

        if self.model is None or self.settings is None:
            return 1
        return max_views(self.model.spec.spatial_dims, self.settings.tta_axes, self.settings.tta_views)

    @property
    def volume_word(self) -> str:
        """What to call a volume of the plan: a plane, where a 2D model runs stacks."""
        model, read = self.model, zip(self.images, self.readings, strict=False)
        planes = [model is not None and counts_planes(image, model.spec) for image, reading in read if reading.use]
        return "plane" if planes and all(planes) and len(planes) == len(self.images) else "volume"

    @property
    def planning(self) -> bool:
        """Whether the plan is being worked out."""
        return self._planner.pending

    @property
    def can_run(self) -> bool:
        """Whether `start_run` would start one."""
        ready = self.model is not None and bool(self.volumes) and not self.models.loading
        return ready and not self.problem and not self.runner.active and not self.fitting.active

    @property
    def shown_plan(self) -> Plan | None:
        """The plan that runs, while one does, else the one of the present choice."""
        return self.runner.plan if self.runner.active else self.plan

    def set_images(self, images: tuple[ImageInput, ...]) -> None:
        """Take *images* as chosen."""
        self.images = images
        self.changed_since_run = True
        self._read_images()
        self._chosen(self.images_changed)

    def forget_intensities(self, data: Any) -> None:
        """Measure the intensities of the array *data* anew: the viewer says that it was set."""
        self._intensities.forget(data)

    def set_axis_use(self, use: AxisUse) -> None:
        """Take the axis in front for what the user says."""
        self.axis_use = use
        self.set_images(self.images)

    def set_mask(self, mask: MaskInput | None) -> None:
        """Compute only where *mask* is not 0, everywhere if None."""
        self.mask = mask
        self._chosen(self.settings_changed)

    def renew_mask(self, mask: MaskInput) -> None:
        """Take the chosen mask as it is now, for the run that starts next; it counts the windows once more."""
        self.mask = mask

    def change(self, **settings: Any) -> None:
        """Take *settings* as a person's choice, with what follows from them; `refused` says why not."""
        if self.model is None or self.settings is None:
            return
        try:
            self.use_settings(_with_what_follows(self.settings, self.model.spec, settings))
        except SettingsError as error:
            self.refused = sentence(error)
            self.settings_changed.emit()
            self.plan_changed.emit()

    def use_settings(self, settings: Settings) -> None:
        """Take all *settings*, or raise `SettingsError`; the model gives the window and the decoder that they lack."""
        assert self.model is not None
        rule = self.model.spec.window
        window = settings.window_size or rule.default
        if len(window) != len(rule.default):
            rule.check(window)
        self.settings = settings.replace(window_size=window)
        if settings.decoder is None:
            self.settings = self.settings.replace(**_suggested_decoder(self.model.spec))
        self.refused = ""
        self._chosen(self.settings_changed)

    def use_settings_file(self, path: str | Path) -> tuple[str, ...]:
        """Read all settings from a file and return what of it was not carried over; see `Settings.open`."""
        from napari_tessera.core.settings.settings import Settings

        settings, notes = Settings.open(path)
        self.use_settings(settings)
        return notes

    def save_settings(self, path: str | Path, *, for_connectomics: bool = False) -> tuple[str, ...]:
        """Write all settings, and return those that the program that reads the file will not know of."""
        from napari_tessera.core.settings.connectomics_export import write_connectomics

        assert self.settings is not None
        if for_connectomics:
            return write_connectomics(path, self.settings)
        self.settings.to_yaml(path)
        return ()

    def offered(self, name: str) -> tuple[str, ...] | None:
        """Return what the machine or the model leaves to choose for the setting *name*; None: it is no choice."""
        choices = self.models.choices
        if name == "device":
            return () if choices is None else choices.devices
        return self.models.decoders if name == "decoder" else None

    def decoder_knobs(self) -> tuple[Knob, ...]:
        """Return the parameters of the decoder in use."""
        from napari_tessera.decode import decoder_knobs

        return decoder_knobs(self.settings.decoder) if self.settings is not None and self.settings.decoder else ()

    def reset_window(self) -> None:
        """Take the model's own window."""
        assert self.model is not None
        self.change(window_size=self.model.spec.window.default)

    def apply_advice(self) -> None:
        """Do what the first piece of advice on the plan proposes."""
        change = self.plan.advice[0].change if self.plan is not None and self.plan.advice else None
        if change is not None:
            self.change(**dict([change]))

    def set_outputs(self, outputs: Outputs) -> None:
        """Choose what a run keeps."""
        self.outputs = outputs
        self._read_images()
        self._chosen(self.settings_changed)

    def start_run(self) -> bool:
        """Run the present choice; False, and nothing happens, where that is not possible."""
        task = self._task()
        if not self.can_run or task is None:
            return False
        return self.runner.start(task, None if self.planning else self.plan)

    def fit(self, *, choose_window: bool = False) -> bool:
        """Fit ``sw_batch_size``, and the window if asked, to what is free; False where that is not possible."""
        task = self._task()
        if not self.can_run or task is None:
            return False

        def take(plan: Plan) -> bool:
            now = self.volumes, self.model, self.settings, self.outputs, self.mask
            then = task.volumes, task.model, task.settings, task.outputs, task.mask
            if any(one is not other for one, other in zip(now, then, strict=True)):
                return False
            self.change(window_size=plan.settings.window_size, sw_batch_size=plan.settings.sw_batch_size)
            return True

        return self.fitting.start(task, take, choose_window=choose_window)

    def renew_device(self) -> None:
        """Find out what is free now, and plan anew where that has changed by what can be seen."""
        plan = self.plan
        if plan is None or self._renewing or self._busy:
            return
        self._renewing = True
        self.background.submit(
            lambda: _free_bytes(plan.settings.device),
            lambda free: self._renewed(plan, free),
            lambda error: self._renewed(plan, error),
            name="device",
        )

    def close(self, timeout_s: float = 30.0) -> None:
        """Cancel what goes on and wait for it; nothing is emitted afterwards."""
        for signal in (self.images_changed, self.settings_changed, self.plan_changed):
            signal.disconnect()
        self.models.changed.disconnect()
        self.fitting.changed.disconnect()
        self.runner.silence()
        self.fitting.cancel()
        self.runner.cancel()
        self._planner.withdraw()
        self.background.close(timeout_s)

    @property
    def _busy(self) -> bool:
        """Whether the network is in use, or about to be looked at: nothing else may use it."""
        return self.planning or self.runner.active or self.fitting.active

    def _task(self) -> Task | None:
        if self.model is None or self.settings is None or not self.volumes:
            return None
        return Task(self.volumes, self.model, self.settings, self.outputs, self.mask, self._intensities)

    def _chosen(self, changed: SignalInstance) -> None:
        """Tell of a choice, and plan it."""
        self.fitting.forget()
        changed.emit()
        self._replan()

    def _read_images(self) -> None:
        """Turn the images into volumes, or find out why that is not possible."""
        self.readings, self.volumes, self.problem = (), (), ""
        if self.model is not None:
            try:
                self.readings, self.volumes = read_volumes(self.images, self.model.spec, self.axis_use)
            except InputError as error:
                self.problem = sentence(error)

    def _replan(self) -> None:
        if self.runner.active:  # the plan on screen is the one that runs; the next one is made when it ends
            return
        if self.fitting.active:  # which measures the network, for a choice that no longer holds
            self.fitting.cancel()
            return
        task = self._task()
        if task is None:
            self._planner.withdraw()
            self.plan = None
        elif not (self.outputs.labels or self.outputs.probabilities):
            self._planner.withdraw()
            self.plan, self.problem = None, "choose labels, probabilities or both"
        else:
            self._planner.request(task)
            if not self.planning:  # answered at once, and told
                return
        self.plan_changed.emit()

    def _planned(self, answer: Plan | Exception) -> None:
        if isinstance(answer, Exception):
            self.plan, self.problem = None, sentence(answer)
        else:
            self.plan, self.problem = answer, ""
        self.plan_changed.emit()

    def _renewed(self, plan: Plan, free: tuple[int, int] | Exception) -> None:
        self._renewing = False
        if plan is not self.plan or self._busy:
            return
        if isinstance(free, Exception):
            self._planned(free)
            return
        device = plan.device
        seen = (device.free_bytes, device.total_bytes), (device.host_free_bytes, device.host_total_bytes)
        moved = any(abs(now - then) > SEEN * total for now, (then, total) in zip(free, seen, strict=True))
        if moved:
            self._replan()

    def _on_models(self) -> None:
        model = self.models.model
        if model is None or model is self._model:
            return
        previous, self._model = self._model, model
        self.changed_since_run = True
        self._planner.forget()
        self.settings = _settings_for(model.spec, None if previous is None else previous.spec, self.settings)
        self._read_images()
        self.settings_changed.emit()
        self.images_changed.emit()
        self._replan()

    def _on_fitting(self) -> None:
        if not self.fitting.active:
            self._replan()

    def _on_run(self) -> None:
        if self.runner.active:
            return
        self.changed_since_run = False
        self._read_images()
        self._replan()


def _free_bytes(device: str) -> tuple[int, int]:
    """Return what is free of the device and of the host."""
    from napari_tessera.api import measure_device

    now = measure_device(device)
    return now.free_bytes, now.host_free_bytes


def _suggested_decoder(spec: ModelSpec) -> dict[str, Any]:
    return {"decoder": spec.suggested_decoder.name, "decoder_parameters": spec.suggested_decoder.parameters}


def _with_what_follows(settings: Settings, spec: ModelSpec, chosen: dict[str, Any]) -> Settings:
    """Return *settings* with what is *chosen*, and with what else a person means by that."""
    from napari_tessera.core.settings.views import count_reflections, max_views

    if "decoder" in chosen and "decoder_parameters" not in chosen:
        suggested = _suggested_decoder(spec)
        own = suggested if chosen["decoder"] == suggested["decoder"] else {"decoder_parameters": ()}
        chosen = chosen | own
    if "tta_views" in chosen and "tta_num" not in chosen:
        views = chosen["tta_views"]
        chosen = chosen | {"tta_axes": None, "tta_num": 1 if views is None else len(views)}
    elif "tta_axes" in chosen and "tta_num" not in chosen:
        before = spec.axes if settings.tta_axes is None else settings.tta_axes
        axes, n = chosen["tta_axes"], settings.tta_num
        if n > 1 and n == count_reflections(before):  # all reflections stay all reflections
            n = count_reflections(spec.axes if axes is None else axes)
        axes = None if axes == spec.axes else axes
        chosen = chosen | {"tta_axes": axes, "tta_views": None, "tta_num": min(n, max_views(len(spec.axes), axes))}
    after = settings.replace(**chosen)
    # What the model suggests depends on the window; another overlap is the user's own.
    suggested_before, suggested_now = map(spec.overlap_at, (settings.window_size, after.window_size))
    if "overlap" in chosen or suggested_now is None or settings.overlap != suggested_before:
        return after
    return after.replace(overlap=suggested_now)


def _settings_for(spec: ModelSpec, previous: ModelSpec | None, settings: Settings | None) -> Settings:
    """Return *settings* with what depends on the model as that of *spec* suggests.

    Views and a blending that the *previous* one suggested go with it.
    """
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.core.settings.views import max_views
    from napari_tessera.models.spec.suggestions import with_blend_of, with_overlap_of, with_views_of, without_views_of

    before = settings or Settings()
    if previous is not None:
        before = without_views_of(before, previous)
        if before.blend == previous.blend:
            before = before.replace(blend=Settings().blend)
    if before.tta_views is not None:  # of another model, which may have other axes
        before = before.replace(tta_num=1, tta_views=None)
    if before.tta_axes is not None and not set(before.tta_axes) <= set(spec.axes):
        before = before.replace(tta_axes=None)
    suited = before.replace(
        window_size=spec.window.default,
        tta_num=min(before.tta_num, max_views(spec.spatial_dims, before.tta_axes)),
        resolution=None,
        # Where the model resamples by itself, that is what its user expects.
        resample=None if spec.resampling.usual or spec.voxel_size_um is None else before.resample,
        **_suggested_decoder(spec),
    )
    return with_views_of(with_blend_of(with_overlap_of(suited, spec), spec), spec)
