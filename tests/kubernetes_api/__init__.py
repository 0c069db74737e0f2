"""A small Kubernetes API server on loopback: pods whose commands run as processes here, and switches for what goes wrong in clusters.

A client sees nothing but the public API, so that what passes against it can pass against a cluster. What it cannot do: enforce
a read-only root file system, a user or a limit (they are checked as part of the spec alone), probes, lifecycle hooks, exec.

store, resources, selectors, patches     objects, their versions, and how clients find and change them
checks, admission, scheduler             what is refused, and where a pod may run
life, container, volumes, environment    a pod from Pending to its end
faults                                   the switches
server, routes, watching, log_streams    HTTP
cluster, fixture, __main__               all of it together, for tests and for a look by hand
"""
