"""Phrases as radiology reports have them, each with the anatomy ("" = anywhere) and the finding.

By (anatomy, finding), ids of anatomies.json and findings.json; all the phrases of a line are meant
to be understood so.
"""

from __future__ import annotations

_PHRASES: dict[tuple[str, str], str] = {
    ("lung", "nodule"): """nodule in the lingula | 8 mm nodule in the right upper lobe |
        2.3 cm nodule in the RUL | LLL nodule | spiculated nodule in the left upper lobe |
        right lower lobe pulmonary nodule | lung base nodule | subpleural nodule in the RML |
        ground glass nodule in the left lower lobe | perifissural nodule |
        nodule in the lung near the heart | part-solid nodule of the right middle lobe |
        pulmonary nodule abutting the mediastinum | nodule in the left lung apex |
        soft tissue nodule in the lung | lingular nodule | cavitary nodule in the upper lobe |
        pleural nodule | lung nodule in a patient with breast cancer |
        lung nodule in patient with history of melanoma""",
    ("lung", "mass"): """right upper lobe mass | mass in the superior segment of the RLL |
        lung mass invading the chest wall | spiculated lung mass with pleural tag |
        pulmonary mass adjacent to the aorta | endobronchial mass | Pancoast mass |
        left hilar lung mass | necrotic mass in the left lower lobe""",
    ("lung", "tumor"): "superior sulcus tumor | tumor in the right main bronchus | pleural tumor",
    ("lung", "cancer"): """right upper lobe adenocarcinoma | bronchogenic carcinoma |
        lung cancer with invasion of the mediastinum | squamous cell carcinoma of the lung |
        carcinoma of the lingula""",
    ("lung", "lesion"): "lesion in the left lung base | cavitary lesion in the RUL",
    ("lung", "nsclc"): "non-small cell lung cancer of the left upper lobe | NSCLC RUL",
    ("lung", "mesothelioma"): "right pleural mesothelioma",
    ("lung", "metastasis"): """pulmonary metastases | lung metastases from renal cell carcinoma |
        metastatic nodule in the right lower lobe | metastasis from breast cancer in the lung |
        metastatic colon cancer to the lung | pleural metastases |
        metastatic melanoma in the left lung | HCC metastases to lung""",
    ("liver", "lesion"): """hypodense lesion in segment VII of the liver | lesion in hepatic dome |
        liver lesion in patient with colon cancer | arterially enhancing liver lesion |
        lesion in the caudate lobe | LI-RADS 5 lesion | hepatic lesion with washout |
        focal lesion in the right hepatic lobe | history of colon cancer, new liver lesion |
        1.2 cm lesion in the left lobe of the liver | lesion near the heart in the liver""",
    ("liver", "mass"): """soft tissue mass in the liver | hepatic mass compressing the stomach |
        mass in the right lobe of the liver | exophytic liver mass near the gallbladder""",
    ("liver", "tumor"): "tumor in liver segment VIII | hepatic tumour in the left lobe",
    ("liver", "hepatocellular_carcinoma"): """HCC in segment 4 | multifocal HCC |
        hepatocellular carcinoma with washout | HCC abutting the diaphragm of the liver""",
    ("liver", "cholangiocarcinoma"): """intrahepatic cholangiocarcinoma |
        hilar cholangiocarcinoma""",
    ("liver", "hemangioma"): "hepatic hemangioma | hemangioma of the right hepatic lobe",
    ("liver", "cyst"): "simple hepatic cyst | cyst in the left hepatic lobe",
    ("liver", "adenoma"): "hepatic adenoma",
    ("liver", "focal_nodular_hyperplasia"): "FNH in the liver",
    ("liver", "metastasis"): """metastasis from colon cancer in liver | liver mets from pancreas |
        metastatic colon cancer liver | metastatic disease to the liver | CRC liver metastases |
        hypovascular liver metastases | metastatic breast carcinoma involving the liver |
        metastases in the right hepatic lobe from GIST | liver metastases of colorectal cancer |
        hepatic metastases from a neuroendocrine tumor of the pancreas""",
    ("kidney", "mass"): """left kidney mass | enhancing mass in the upper pole of the right kidney |
        exophytic renal mass | mass arising from the left kidney | interpolar right renal mass |
        4.5 x 3.2 cm mass of the lower pole of the left kidney |
        renal mass extending into the renal vein | mass in the renal pelvis""",
    ("kidney", "tumor"): """left kidney tumor | renal tumor | tumor of the renal cortex |
        right renal tumor abutting the liver""",
    ("kidney", "renal_cell_carcinoma"): "clear cell RCC | left renal cell carcinoma",
    ("kidney", "cyst"): """simple cortical renal cyst | cyst in the left kidney |
        Bosniak IV renal cyst""",
    ("kidney", "angiomyolipoma"): "fat-containing angiomyolipoma of the right kidney",
    ("kidney", "lesion"): """hyperdense lesion in the interpolar left kidney |
        indeterminate renal lesion""",
    ("pancreas", "mass"): """pancreatic head mass | mass in the tail of the pancreas |
        hypoattenuating mass in the uncinate process | mass in the neck of the pancreas |
        pancreatic mass encasing the superior mesenteric artery |
        pancreatic mass invading the duodenum | pancreatic body mass""",
    ("pancreas", "cyst"): "cyst in the pancreatic tail | cystic lesion in the head of the pancreas",
    ("pancreas", "cancer"): "pancreatic cancer | locally advanced carcinoma of the pancreatic body",
    ("pancreas", "ipmn"): "side-branch IPMN | IPMN in the uncinate process",
    ("pancreas", "neuroendocrine_tumor"): """neuroendocrine tumor of the pancreatic tail |
        hypervascular pancreatic neuroendocrine neoplasm""",
    ("colon", "mass"): """sigmoid mass | cecal mass | mass at the hepatic flexure |
        obstructing mass in the descending colon | apple core mass of the ascending colon |
        rectal mass | ileocecal mass | mass in the splenic flexure""",
    ("colon", "cancer"): """rectal cancer | sigmoid carcinoma | colon cancer invading the bladder |
        rectal adenocarcinoma with mesorectal extension""",
    ("colon", "polyp"): "colonic polyp | pedunculated polyp in the sigmoid",
    ("stomach", "cancer"): """gastric cardia cancer | cardia cancer | gastric antral carcinoma |
        carcinoma of the pylorus | adenocarcinoma of the gastric fundus""",
    ("stomach", "mass"): """mass in the lesser curvature of the stomach | gastric mass |
        antral mass | mass of the gastric body""",
    ("stomach", "gist"): "exophytic GIST",
    ("esophagus", "cancer"): """distal esophageal cancer | carcinoma of the GE junction |
        cancer of the gastroesophageal junction | cervical esophagus carcinoma""",
    ("esophagus", "mass"): "mid esophageal mass | mass in the thoracic esophagus",
    ("small_bowel", "mass"): "duodenal mass | jejunal mass | mass in the terminal ileum",
    ("small_bowel", "neuroendocrine_tumor"): "carcinoid of the ileum",
    ("gallbladder", "mass"): """gallbladder neck mass | mass in the neck of the gallbladder |
        cystic duct mass""",
    ("gallbladder", "polyp"): "gallbladder polyp | polyp in the gallbladder fundus",
    ("gallbladder", "cancer"): "gallbladder carcinoma invading the liver",
    ("spleen", "lesion"): "hypodense splenic lesion | lesion in the spleen",
    ("spleen", "mass"): "mass in the splenic hilum | splenic mass",
    ("spleen", "metastasis"): "splenic metastasis | metastasis in the spleen from ovarian cancer",
    ("adrenal_gland", "nodule"): "left adrenal nodule | nodule of the right adrenal gland",
    ("adrenal_gland", "adenoma"): "right adrenal adenoma",
    ("adrenal_gland", "mass"): "suprarenal mass | adrenal mass adjacent to the left kidney",
    ("adrenal_gland", "metastasis"): """adrenal metastasis from lung cancer |
        bilateral adrenal metastases""",
    ("heart", "mass"): """left atrial mass | mass in the right ventricle |
        pericardial mass | mitral valve mass""",
    ("heart", "tumor"): "cardiac tumor | tumor of the interatrial septum",
    ("mediastinum", "mass"): """anterior mediastinal mass | prevascular mass | thymic mass |
        mass in the posterior mediastinum""",
    ("mediastinum", "thymoma"): "thymoma in the anterior mediastinum",
    ("breast", "mass"): """left breast mass | retroareolar mass |
        spiculated mass in the upper outer quadrant of the right breast |
        mass in the lower inner quadrant of the breast""",
    ("breast", "cancer"): "right breast cancer | multifocal carcinoma of the left breast",
    ("breast", "fibroadenoma"): "fibroadenoma of the left breast",
    ("breast", "ductal_carcinoma"): "invasive ductal carcinoma of the right breast",
    ("prostate", "lesion"): """PI-RADS 5 lesion in the left peripheral zone |
        lesion in the transition zone | prostatic lesion at the apex""",
    ("prostate", "cancer"): """prostate cancer at the base |
        prostate cancer with seminal vesicle invasion""",
    ("urinary_bladder", "mass"): """bladder wall mass | mass in the bladder dome |
        bladder neck mass |
        polypoid mass at the trigone | mass at the left vesicoureteral junction""",
    ("urinary_bladder", "tumor"): "papillary bladder tumor | tumor of the posterior bladder wall",
    ("urinary_bladder", "urothelial_carcinoma"): "urothelial carcinoma of the bladder",
    ("uterus", "fibroid"): "intramural fibroid | submucosal uterine fibroid",
    ("uterus", "cancer"): "endometrial cancer | endometrial carcinoma with myometrial invasion",
    ("uterus", "cervical_cancer"): "cervical cancer with parametrial invasion",
    ("uterus", "mass"): "cervix mass | mass in the uterine fundus",
    ("ovary", "mass"): "left adnexal mass | complex ovarian mass | right adnexal mass",
    ("ovary", "cyst"): "right ovarian cyst | septated cyst of the left ovary",
    ("brain", "tumor"): """pineal tumor | posterior fossa tumor | tumor in the fourth ventricle |
        enhancing tumor of the left temporal lobe | brain tumor with edema""",
    ("brain", "mass"): """sellar mass | suprasellar mass | cerebellopontine angle mass |
        left frontal mass | mass in the lateral ventricle | intraventricular mass | pontine mass |
        right parietal mass with midline shift | extra-axial mass over the frontal convexity |
        dural-based mass | mass in the cerebellar vermis | cavernous sinus mass""",
    ("brain", "lesion"): """ring-enhancing lesion in the right frontal lobe | thalamic lesion |
        periventricular lesion | FLAIR hyperintense lesion in the left insula |
        lesion in the corpus callosum | brainstem lesion""",
    ("brain", "meningioma"): """skull base meningioma | parafalcine meningioma |
        sphenoid wing meningioma | convexity meningioma | tentorial meningioma""",
    ("brain", "glioma"): "low-grade glioma of the left insula | pontine glioma | high grade glioma",
    ("brain", "glioblastoma"): "butterfly GBM | glioblastoma in the right temporal lobe",
    ("brain", "schwannoma"): "vestibular schwannoma | acoustic neuroma",
    ("brain", "metastasis"): """brain metastases from lung cancer | cerebellar metastasis |
        metastatic lung cancer to the brain | melanoma brain metastases | metastatic brain tumor |
        metastasis in the left frontal lobe | dural metastases | NSCLC brain metastasis |
        leptomeningeal metastases | metastatic lesions in the cerebellum from breast cancer""",
    ("brain", "pituitary_adenoma"): "pituitary macroadenoma | pituitary microadenoma",
    ("head_neck", "mass"): """neck mass | base of tongue mass | parotid mass | nasopharyngeal mass |
        left tonsillar mass | mass in the right parotid gland | supraglottic mass |
        floor of mouth mass | parapharyngeal mass | maxillary sinus mass | nasal cavity mass |
        submandibular gland mass | carotid body mass | retromolar trigone mass""",
    ("head_neck", "cancer"): """laryngeal cancer | squamous cell carcinoma of the oral cavity |
        glottic carcinoma | tongue cancer | carcinoma of the hypopharynx | tonsil cancer""",
    ("thyroid", "nodule"): """thyroid nodule | nodule in the left thyroid lobe | TI-RADS 4 nodule |
        thyroid nodule in the neck | hypoechoic nodule of the thyroid isthmus""",
    ("thyroid", "cancer"): "thyroid cancer | papillary thyroid carcinoma",
    ("bone", "lesion"): """lytic lesion in the L3 vertebral body | lytic bone lesion |
        lesion in the left iliac wing | sclerotic lesion in the femoral head |
        lesion of the right acetabulum | expansile rib lesion | skull lesion | sacral lesion |
        lesion in the femoral neck | clival lesion | mandibular lesion |
        lesion in the temporal bone""",
    ("bone", "mass"): "mass of the distal femur | sacral mass | mass in the ilium",
    ("bone", "tumor"): "giant cell tumor of the distal radius | tumor of the proximal humerus",
    ("bone", "metastasis"): """metastatic prostate cancer bone |
        bone metastases from breast cancer |
        vertebral metastases | osseous metastases | metastasis in the thoracic spine |
        metastatic prostate cancer to the spine |
        metastases to the ribs | L2 metastasis | skull metastasis from thyroid cancer""",
    ("bone", "myeloma"): "multiple myeloma of the spine",
    ("soft_tissue", "mass"): """soft tissue mass in the left thigh | gluteal mass | calf mass |
        intramuscular mass of the quadriceps | chest wall mass | abdominal wall mass |
        subcutaneous mass in the forearm | retroperitoneal mass | psoas mass | deltoid mass""",
    ("soft_tissue", "lipoma"): "intramuscular lipoma of the thigh | subcutaneous lipoma",
    ("soft_tissue", "soft_tissue_sarcoma"): """retroperitoneal liposarcoma |
        soft tissue sarcoma of the thigh | myxofibrosarcoma of the calf""",
    ("lymph_node", "lymphadenopathy"): """mediastinal lymphadenopathy | hilar lymphadenopathy |
        retroperitoneal lymphadenopathy | cervical lymphadenopathy | axillary lymphadenopathy""",
    ("lymph_node", "metastasis"): """axillary lymph node metastasis from breast cancer |
        nodal metastasis | lymph node metastases in the neck |
        metastasis in a mediastinal lymph node""",
    ("lymph_node", "mass"): "nodal mass in the left axilla | pelvic lymph node mass",
    ("", "metastasis"): """metastatic prostate cancer | metastases from colon cancer |
        metastatic melanoma | drop metastases""",
    ("", "tumor"): "tumor core | enhancing tumor core | tumor and edema | whole tumor",
    ("", "mass"): """mass in the left lower quadrant | axillary mass | pelvic mass |
        enhancing mass | right lower quadrant mass""",
    ("", "nodule"): "right base nodule | solitary nodule",
    ("", "lymphoma"): "bulky lymphoma | Hodgkin lymphoma",
}

# text, anatomy, finding
PHRASES: list[tuple[str, str, str]] = [
    (" ".join(phrase.split()), anatomy, finding)
    for (anatomy, finding), phrases in _PHRASES.items() for phrase in phrases.split("|")
]
