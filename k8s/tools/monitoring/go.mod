// The definitions of PodMonitor, ServiceMonitor and PrometheusRule, which tests install: only downloaded, never built.
module webvision-suite/k8s/tools/monitoring

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
