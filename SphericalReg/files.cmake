# Written by Testing/cmake_lists.py.
set(MODULE_PYTHON_SCRIPTS
  Resources/Scripts/register_cases.py
  SphericalReg.py
  SphericalRegModule/__init__.py
  SphericalRegModule/batch.py
  SphericalRegModule/batch_section.py
  SphericalRegModule/dependencies.py
  SphericalRegModule/geometry_section.py
  SphericalRegModule/installer.py
  SphericalRegModule/job.py
  SphericalRegModule/live.py
  SphericalRegModule/panel.py
  SphericalRegModule/rendering.py
  SphericalRegModule/result_section.py
  SphericalRegModule/runner.py
  SphericalRegModule/sample_data.py
  SphericalRegModule/scene_view.py
  SphericalRegModule/selftest.py
  SphericalRegModule/xray_view.py
  )

set(MODULE_PYTHON_RESOURCES
  Resources/Icons/SphericalReg.png
  Resources/UI/SphericalReg.ui
  )
