"""A small Kubernetes API server on loopback: pods whose commands run as processes here, and switches for what goes wrong in clusters.

A client sees nothing but the public API, so that what passes against it can pass against a cluster. What it cannot do: enforce
a read-only root file system, a user or a limit (they are checked as part of the spec alone), probes, lifecycle hooks, exec, and
volumes but claims, secrets, config maps and emptyDir.
Two pods see the same disk; a path in a volume is rewritten where it stands in a command, an argument, a variable or workingDir.

store, resources, selectors, patches, quantities     objects, their versions, and how clients find and change them
checks, defaults, admission, scheduler               what is filled in, what is refused, and where a pod may run
life, ending, pulling, pod_status                    a pod from Pending to its end
container, volumes, environment, images, log         its processes
faults, call_faults                                  the switches
server, routes, watching, log_streams, answers       HTTP
cluster, fake, fixture, manifests, __main__          all of it together, for tests and for a look by hand
"""
