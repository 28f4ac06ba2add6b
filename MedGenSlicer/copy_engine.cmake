# Copies what runs outside Slicer from SOURCE to TARGET: the Python package, its list of packages, weights, samples.
file(REMOVE_RECURSE "${TARGET}")
file(COPY "${SOURCE}/models/medgen" DESTINATION "${TARGET}/models" PATTERN "__pycache__" EXCLUDE)
foreach(folder IN ITEMS Weights Terminology SampleData)
  if(EXISTS "${SOURCE}/Resources/${folder}")
    file(COPY "${SOURCE}/Resources/${folder}" DESTINATION "${TARGET}/Resources")
  endif()
endforeach()
file(COPY "${SOURCE}/pyproject.toml" "${SOURCE}/LICENSE.txt" DESTINATION "${TARGET}")
