# SPDX-License-Identifier: Apache-2.0
# The objects of an instruction set define no function that other objects may define too: the linker keeps one of such
# copies for all, and one with wide instructions stops a processor that lacks them.
string(REPLACE "|" ";" objects "${OBJECTS}")
list(FILTER objects EXCLUDE REGEX "baseline")
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[0-9a-f]+ W [^\n]+" shared "${symbols}")
  if(shared)
    message(SEND_ERROR "${object}: ${shared}")
  endif()
endforeach()
