{{- define "usher.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimAll "-." -}}
{{- end -}}

{{- define "usher.configurationNamespace" -}}
{{- .Values.configurationNamespace.name | default (printf "%s-config" .Release.Namespace) -}}
{{- end -}}

{{- define "usher.gateway.serviceAccount" -}}
{{- .Values.gateway.serviceAccount.name | default (printf "%s-gateway" (include "usher.name" .)) -}}
{{- end -}}

{{- define "usher.operator.serviceAccount" -}}
{{- .Values.operator.serviceAccount.name | default (printf "%s-operator" (include "usher.name" .)) -}}
{{- end -}}

{{- /* Labels and annotations of an object. Argument: [root, component], its own annotations and its own labels, if it has any. */ -}}
{{- define "usher.metadata" -}}
labels: {{- include "usher.labels" . | nindent 2 }}
{{- with include "usher.annotations" . }}
{{ . }}
{{- end }}
{{- end -}}

{{- /* Labels of an object. Argument: as above. */ -}}
{{- define "usher.labels" -}}
{{- $root := index . 0 -}}
{{- $about := dict
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/part-of" "usher"
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) -}}
{{- $own := index (concat . (list dict dict)) 3 | default dict -}}
{{- merge (include "usher.selector" . | fromYaml) $about $own ($root.Values.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{- /* Annotations of an object, or nothing. Argument: as above. */ -}}
{{- define "usher.annotations" -}}
{{- $own := index (append . dict) 2 | default dict -}}
{{- with merge (dict) $own ((index . 0).Values.commonAnnotations | default dict) -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /* Labels of a pod. Argument: [root, component], and `podLabels` of the component if it has them. */ -}}
{{- define "usher.podLabels" -}}
{{- $own := index (append . dict) 2 | default dict -}}
{{- merge (include "usher.selector" . | fromYaml) $own ((index . 0).Values.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{- /* Labels by which Services and workloads select pods; they never change. Argument: [root, component]. */ -}}
{{- define "usher.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: usher
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "usher.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What all pods have in common. Argument: [root, values of the component, component]. */ -}}
{{- define "usher.podSpec" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "usher.selector" (list $root (index . 2)) | fromYaml)) -}}
enableServiceLinks: false # their variables would begin with USHER_, as the settings do
{{- $context := $values.podSecurityContext }}
{{- if $root.Capabilities.APIVersions.Has "security.openshift.io/v1" }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
securityContext: {{- toYaml $context | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
- {{- merge (dict) . $selector | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What all containers have in common. Argument: [root, values of the component]. */ -}}
{{- define "usher.container" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
image: {{ include "usher.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext: {{- toYaml $values.containerSecurityContext | nindent 2 }}
resources: {{- toYaml $values.resources | nindent 2 }}
{{- end -}}

{{- /* The probes of a program's admin port. Argument: values of the component. */ -}}
{{- define "usher.probes" -}}
{{- range $probe, $path := dict "startupProbe" "/healthz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{ $probe }}: {{- merge (dict "httpGet" (dict "path" $path "port" "admin")) (index $ $probe) | toYaml | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Name servers, as a rule of a NetworkPolicy. */ -}}
{{- define "usher.dnsEgress" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{- /* Addresses of the API server, as a rule of a NetworkPolicy. */ -}}
{{- define "usher.apiServerEgress" -}}
- ports:
  {{- range .Values.apiServer.ports }}
  - {port: {{ . }}}
  {{- end }}
  {{- with .Values.apiServer.cidrs }}
  to:
  {{- range . }}
  - ipBlock: {cidr: {{ . | quote }}}
  {{- end }}
  {{- end }}
{{- end -}}

{{- /* The pods that ask an admin port: the operator, and the one of `helm test`. */ -}}
{{- define "usher.adminClients" -}}
{{- range list "operator" "test" }}
- podSelector:
    matchLabels: {{- include "usher.selector" (list $ .) | nindent 6 }}
{{- end }}
{{- end -}}
