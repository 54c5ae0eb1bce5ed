"""Where everything lies under STATE_DIR: the one place that knows a name in it.

Only the standard library, because processes that stay small for ever import this. `entrypoint.sh` and
`supervisord.conf` name the few paths that they need themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPLACED: Final = "replaced-"  # begins the name of a directory that holds what a restore has replaced


@dataclass(frozen=True)
class Layout:
    """The paths under ``root``, which is STATE_DIR."""

    root: Path

    @property
    def marker(self) -> Path:
        """There from the first start on: this directory is a state of the appliance."""
        return self.root / ".tableloop"

    def is_state(self) -> bool:
        """Return whether the directory is a state: by its marker, or by what one had before there were markers."""
        return any(path.exists() for path in (self.marker, self.database, self.mlflow_database))

    def own(self) -> list[Path]:
        """Return what is there and belongs to the appliance, but files that are still being made."""
        names = {
            *(self.database, self.workspace, self.spool, self.simulations, self.champion, self.secrets, self.mlflow),
            *(self.prometheus, self.alertmanager, self.grafana, self.logs, self.run, self.backups, self.marker),
        }
        former = ("retrains.jsonl", "drift", "predictions.db-")  # of a time before the store, and SQLite's own
        return sorted(
            path for path in self.root.iterdir() if path in names or path.name.startswith((REPLACED, *former))
        )

    @property
    def database(self) -> Path:
        """The store: predictions, labels, drift, retrainings and what served."""
        return self.root / "predictions.db"

    @property
    def workspace(self) -> Path:
        """The DVC workspace, in which the stages of the pipeline run."""
        return self.root / "workspace"

    @property
    def spool(self) -> Path:
        """Files of rows on their way through the service."""
        return self.root / "spool"

    @property
    def simulations(self) -> Path:
        """The pictures that `make simulate` leaves."""
        return self.root / "simulate"

    # -- the service's local copy of the model ------------------------------------------------------------------

    @property
    def champion(self) -> Path:
        """The directory of the local copies."""
        return self.root / "champion"

    @property
    def champion_pointer(self) -> Path:
        """The file that names the copy that serves."""
        return self.champion / "current.json"

    # -- what nobody else may read ------------------------------------------------------------------------------

    @property
    def secrets(self) -> Path:
        """The directory of keys and passwords; in no backup."""
        return self.root / "secrets"

    @property
    def signing_key(self) -> Path:
        """What signs the versions of this appliance."""
        return self.secrets / "signing-key"

    @property
    def admin_password(self) -> Path:
        """The administrator's password."""
        return self.secrets / "admin-password"

    @property
    def api_keys(self) -> Path:
        """The hashes of the keys of programs that use the service."""
        return self.secrets / "api-keys"

    # -- MLflow, Prometheus, Grafana ----------------------------------------------------------------------------

    @property
    def mlflow(self) -> Path:
        """The working directory of the MLflow server."""
        return self.root / "mlflow"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's own database."""
        return self.mlflow / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """The files of runs and versions."""
        return self.mlflow / "artifacts"

    @property
    def prometheus(self) -> Path:
        """Prometheus' data."""
        return self.root / "prometheus"

    @property
    def alertmanager(self) -> Path:
        """Alertmanager's data: what was sent already."""
        return self.root / "alertmanager"

    @property
    def grafana(self) -> Path:
        """Grafana's data."""
        return self.root / "grafana"

    @property
    def grafana_plugins(self) -> Path:
        """Grafana's plugins; it logs an error when the directory is missing."""
        return self.grafana / "plugins"

    @property
    def former_password(self) -> Path:
        """Where the password lay when only Grafana had one."""
        return self.grafana / "admin-password"

    # -- logs ---------------------------------------------------------------------------------------------------

    @property
    def logs(self) -> Path:
        """The directory of all logs."""
        return self.root / "logs"

    @property
    def app_log(self) -> Path:
        """The log of the prediction service."""
        return self.logs / "app.log"

    @property
    def registry_log(self) -> Path:
        """Who changed what in the registry."""
        return self.logs / "registry.log"

    @property
    def console(self) -> Path:
        """What an appliance in the background writes to its console."""
        return self.logs / "appliance.log"

    @property
    def former_console(self) -> Path:
        """What was in that file when it was emptied for its length."""
        return self.logs / "appliance.log.1"

    # -- what only a running appliance needs; a start empties it ------------------------------------------------

    @property
    def run(self) -> Path:
        """The directory of these files."""
        return self.root / "run"

    @property
    def run_lock(self) -> Path:
        """Held by the appliance that works with this state."""
        return self.run / "lock"

    @property
    def retraining_lock(self) -> Path:
        """Held by the one retraining, rollback, backup or restore that runs."""
        return self.run / "retrain.lock"

    @property
    def pid(self) -> Path:
        """The process id of `entrypoint.sh`."""
        return self.run / "pid"

    @property
    def supervisord_pid(self) -> Path:
        """The process id of supervisord."""
        return self.run / "supervisord.pid"

    @property
    def supervisord_socket(self) -> Path:
        """The control socket of supervisord."""
        return self.run / "supervisor.sock"

    @property
    def ready(self) -> Path:
        """The ready line, there while everything is well."""
        return self.run / "ready"

    @property
    def was_ready(self) -> Path:
        """The ready line, from the first time on."""
        return self.run / "was_ready"

    @property
    def failed(self) -> Path:
        """Why the appliance has ended itself."""
        return self.run / "failed"

    @property
    def registered(self) -> Path:
        """There from when a version is registered."""
        return self.run / "registered"

    @property
    def health(self) -> Path:
        """What the watchdog last saw of the services."""
        return self.run / "health.json"

    @property
    def alertmanager_configuration(self) -> Path:
        """Where alerts go, with the secrets for it; there only when they go anywhere."""
        return self.run / "alertmanager.yml"

    @property
    def alertmanager_address(self) -> Path:
        """Where Alertmanager listens, as host and port."""
        return self.run / "alertmanager.address"

    @property
    def dashboards(self) -> Path:
        """Grafana's dashboards, filled in for the table."""
        return self.run / "dashboards"

    @property
    def given_up(self) -> Path:
        """The programs that do not run any more while the service does, each with the reason."""
        return self.run / "given_up.json"

    @property
    def groups(self) -> Path:
        """The process groups of the programs, for the next watchdog."""
        return self.run / "groups.json"

    @property
    def example(self) -> Path:
        """The row that the watchdog asks a prediction for."""
        return self.run / "example.json"

    @property
    def phases(self) -> Path:
        """The seconds of each stage of the first training, for the ready line."""
        return self.run / "phases"

    @property
    def stages(self) -> Path:
        """What the stages of the retraining that runs, or of the last one, hand on."""
        return self.run / "stages"

    @property
    def shadow(self) -> Path:
        """The files of the version in the shadow."""
        return self.run / "shadow"

    @property
    def heartbeat(self) -> Path:
        """When the drift monitor last looked, and what kept it from looking."""
        return self.run / "drift-monitor.json"

    # -- backups ------------------------------------------------------------------------------------------------

    @property
    def backups(self) -> Path:
        """Where `make backup` writes when it is given no file."""
        return self.root / "backups"

    @property
    def restoring(self) -> Path:
        """A backup that is being unpacked."""
        return self.root / ".restoring"

    @property
    def restored(self) -> Path:
        """A backup that is unpacked whole and will be the state."""
        return self.root / ".restored"
