"""CT-RATE's vocabulary: labels, table columns, and the grammar of volume names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headsweep.errors import ManifestError

PREVALENCES = {
    "Medical material": 0.123,
    "Arterial wall calcification": 0.284,
    "Cardiomegaly": 0.113,
    "Pericardial effusion": 0.072,
    "Coronary artery wall calcification": 0.255,
    "Hiatal hernia": 0.143,
    "Lymphadenopathy": 0.259,
    "Emphysema": 0.193,
    "Atelectasis": 0.260,
    "Lung nodule": 0.453,
    "Lung opacity": 0.369,
    "Pulmonary fibrotic sequela": 0.267,
    "Pleural effusion": 0.121,
    "Mosaic attenuation pattern": 0.077,
    "Peribronchial thickening": 0.105,
    "Consolidation": 0.176,
    "Bronchiectasis": 0.100,
    "Interlobular septal thickening": 0.079,
}
"""The 18 labels in CT-RATE's order, with their prevalence among its training reports."""

LABELS = tuple(PREVALENCES)

FINDINGS = ("Findings_EN", "Impressions_EN")
"""The report columns that describe the scan; two scans that share them share a report."""

NOT_GIVEN = "Not given."
"""What CT-RATE writes into an empty report section."""

REPORT_COLUMNS = frozenset({"ClinicalInformation_EN", "Technique_EN", *FINDINGS, "report"})

_METADATA = """
VolumeName Manufacturer SeriesDescription ManufacturerModelName PatientSex PatientAge
ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient GantryDetectorTilt
TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure FilterType GeneratorPower
FocalSpots ConvolutionKernel PatientPosition RevolutionTime SingleCollimationWidth
TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor
DataCollectionCenterPatient ReconstructionTargetCenterPatient ExposureModulationType CTDIvol
ImagePositionPatient ImageOrientationPatient SliceLocation SamplesPerPixel
PhotometricInterpretation Rows Columns XYSpacing RescaleIntercept RescaleSlope RescaleType
NumberofSlices ZSpacing StudyDate
patient patient_id scan scan_id split fold source label_source
"""

METADATA_COLUMNS = frozenset(_METADATA.split())
"""CT-RATE's 44 metadata columns, and names that other tables use for keys and provenance."""

VOLUME_NAME = re.compile(r"(?P<patient>[^/]*\d)_(?P<scan>[a-z]+)(?:_(?P<reconstruction>\d+))?")
"""`valid_53_a_1`: split and patient, scan, reconstruction (absent when a row is a whole scan)."""


def volume_of(name: str) -> str:
    """Return the volume's name without surrounding spaces and the file suffix `.nii.gz`."""
    return name.strip().removesuffix(".nii.gz")


def patient_of(volume: str) -> str:
    """Read the patient off a volume's name.

    Returns:
        `valid_53` of `valid_53_a_1`, `manual_train5` of `manual_train5_a_1`.

    Raises:
        ManifestError: the name does not follow CT-RATE's grammar.
    """
    return _match(volume)["patient"]


def scan_of(volume: str) -> str:
    """Read the scan off a volume's name; its reconstructions share labels and report.

    Returns:
        `valid_53_a` of `valid_53_a_1`.

    Raises:
        ManifestError: the name does not follow CT-RATE's grammar.
    """
    match = _match(volume)
    return f"{match['patient']}_{match['scan']}"


def groups_of(volumes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the patient and the scan of every volume.

    Where a name does not follow CT-RATE's grammar, every volume is its own patient and scan.
    """
    if all(VOLUME_NAME.fullmatch(volume_of(volume)) for volume in volumes):
        return tuple(map(patient_of, volumes)), tuple(map(scan_of, volumes))
    return tuple(volumes), tuple(volumes)


def _match(volume: str) -> re.Match[str]:
    match = VOLUME_NAME.fullmatch(volume_of(volume))
    if match is None:
        raise ManifestError(
            "a volume's name must read <split>_<patient>_<scan>_<reconstruction>, "
            f"such as valid_53_a_1, found {volume!r}"
        )
    return match
