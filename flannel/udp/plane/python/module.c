/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Python module `flannel.udp._plane`: a class for the running data plane, functions for its
 * computing parts, and constants.
 */
#include "module.h"

#include "counters.h"
#include "icmp.h"
#include "peers.h"

static int add_constants(PyObject *module) {
    PyObject *help = PyDict_New();
#define ENTER(name, text) \
    if (help) { \
        PyObject *value = PyUnicode_FromString(text); \
        if (!value || PyDict_SetItemString(help, #name, value) < 0) \
            Py_CLEAR(help); \
        Py_XDECREF(value); \
    }
    FOR_EACH_COUNTER(ENTER)
#undef ENTER
    int result = help ? PyModule_AddObjectRef(module, "COUNTERS", help) : -1;
    Py_XDECREF(help);
    if (result < 0 || PyModule_AddIntConstant(module, "NET_UNREACHABLE", NET_UNREACHABLE) < 0 ||
        PyModule_AddIntConstant(module, "TIME_EXCEEDED", TIME_EXCEEDED) < 0 ||
        PyModule_AddIntConstant(module, "TOO_BIG", TOO_BIG) < 0 ||
        PyModule_AddIntConstant(module, "OWN_HOST", OWN_HOST) < 0)
        return -1;
    return 0;
}

static int prepare_module(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &plane_spec, NULL);
    if (!type || PyModule_AddObjectRef(module, "DataPlane", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    return add_constants(module);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, prepare_module}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_plane",
    .m_doc = "Moves the packets of the udp backend.",
    .m_methods = packet_functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__plane(void) {
    return PyModuleDef_Init(&module);
}
